"""`KfpApi` over the v2beta1 REST API of Kubeflow Pipelines. `instar.kfp.http` sends and repeats the requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, InstarError
from instar.kfp import workflow
from instar.kfp.api import LIVE, KfpApi, RunInfo, RunSpec, Schedule, Version
from instar.kfp.http import KfpHttp, KfpOptions


def open_kfp(
    host: str, token_file: Path | None = None, namespace: str = "", certificates: Path | None = None
) -> KfpApi:
    """Return a client of the API server at the URL `host`.

    The token is read from `token_file` for every call, because the projected token of a service account rotates.
    `certificates` is a CA bundle. Raise `MissingDependencyError` without the `cluster` extra.
    """
    return KfpClient(host, token_file=token_file, namespace=namespace, certificates=certificates)


class KfpClient:
    """A client of a real API server. `instar.kfp.api.KfpApi` documents the methods."""

    def __init__(
        self,
        host: str,
        *,
        token_file: Path | None = None,
        namespace: str = "",
        certificates: Path | None = None,
        options: KfpOptions | None = None,
    ) -> None:
        self._http = KfpHttp(host.rstrip("/"), token_file, certificates, options or KfpOptions())
        import kfp_server_api as kfp

        client = self._http.client
        self._kfp, self._namespace = kfp, namespace
        self._runs, self._schedules = kfp.RunServiceApi(client), kfp.RecurringRunServiceApi(client)
        self._experiments, self._pipelines = kfp.ExperimentServiceApi(client), kfp.PipelineServiceApi(client)
        self._uploads = kfp.PipelineUploadServiceApi(client)

    def ensure_experiment(self, name: str) -> str:
        """Return the id of an experiment. Create it if there is none."""

        def find() -> str:
            listed = self._http.list(
                self._experiments.experiment_service_list_experiments,
                "experiments",
                name,
                namespace=self._namespace or None,
            )
            return str(listed[0]["experiment_id"]) if listed else ""

        body = self._kfp.V2beta1Experiment(display_name=name, namespace=self._namespace or None)
        create = self._experiments.experiment_service_create_experiment
        return find() or self._create(find, lambda: str(self._http.once(create, body)["experiment_id"]))

    def upload(self, pipeline: str, version: str, package: Path) -> Version:
        """Return the ids of a version.

        A version with the same name is taken without a comparison, so the name must depend on the content, as a digest does.
        """
        pipeline_id = self._ensure_pipeline(pipeline)

        def find() -> str:
            listed = self._http.list(
                self._pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", version, pipeline_id
            )
            return str(listed[0]["pipeline_version_id"]) if listed else ""

        def send() -> str:
            sent = self._http.once(
                self._uploads.upload_pipeline_version, str(package), name=version, pipelineid=pipeline_id
            )
            return str(sent["pipeline_version_id"])

        return Version(pipeline_id=pipeline_id, version_id=find() or self._create(find, send))

    def find_runs(self, experiment: str, name: str) -> list[RunInfo]:
        """Return the runs of one name, oldest first."""
        listed = self._http.list(
            self._runs.run_service_list_runs, "runs", name, experiment_id=experiment, sort_by="created_at asc"
        )
        return [_run(raw) for raw in listed]

    def get_run(self, run_id: str) -> RunInfo | None:
        """Return one run, or None. If the run has ended, its workflow is read too."""
        raw = self._http.read(self._runs.run_service_get_run, run_id, absent={})
        run = _run(raw) if raw else None
        if run is None or run.state in LIVE:
            return run
        manifest = workflow.parse(self._http.read(self._get_workflow, run_id, absent={}))
        error = "" if run.state == "SUCCEEDED" else workflow.reason(manifest, raw)
        return replace(run, cancelled=run.cancelled or workflow.was_ended(manifest), error=error)

    def create_run(self, spec: RunSpec) -> RunInfo:
        """Create a run. The request is sent only once."""
        body = self._kfp.V2beta1Run(
            display_name=spec.name,
            experiment_id=spec.experiment,
            pipeline_version_reference=self._reference(spec.version),
            runtime_config=self._runtime(spec.parameters, spec.pipeline_root),
            service_account=spec.service_account or None,
        )
        return _run(self._http.once(self._runs.run_service_create_run, body))

    def terminate(self, run_id: str) -> None:
        """Stop a run that is still live."""
        try:
            self._http.once(self._runs.run_service_terminate_run, run_id)
        except ConfigError:
            run = self.get_run(run_id)
            if run is not None and run.state in LIVE - {"CANCELING"}:
                raise

    def find_schedules(self, experiment: str, name: str) -> list[Schedule]:
        """Return the recurring runs of one name, oldest first."""
        call = self._schedules.recurring_run_service_list_recurring_runs
        listed = self._http.list(call, "recurringRuns", name, experiment_id=experiment, sort_by="created_at asc")
        return [_schedule(raw) for raw in listed]

    def create_schedule(self, schedule: Schedule) -> str:
        """Create a recurring run. The request is sent only once."""
        kfp = self._kfp
        body = kfp.V2beta1RecurringRun(
            display_name=schedule.name,
            experiment_id=schedule.experiment,
            pipeline_version_reference=self._reference(schedule.version),
            runtime_config=self._runtime(schedule.parameters, schedule.pipeline_root),
            service_account=schedule.service_account or None,
            max_concurrency=str(schedule.max_concurrency),
            no_catchup=schedule.no_catchup,
            mode=kfp.RecurringRunMode.ENABLE if schedule.enabled else kfp.RecurringRunMode.DISABLE,
            trigger=kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=schedule.cron)),
        )
        call = self._schedules.recurring_run_service_create_recurring_run
        return str(self._http.once(call, body)["recurring_run_id"])

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a recurring run."""
        self._http.once(self._schedules.recurring_run_service_delete_recurring_run, schedule_id, absent={})

    def _ensure_pipeline(self, name: str) -> str:
        def find() -> str:
            call = self._pipelines.pipeline_service_list_pipelines
            listed = self._http.list(call, "pipelines", name, namespace=self._namespace or None)
            return str(listed[0]["pipeline_id"]) if listed else ""

        body = self._kfp.V2beta1Pipeline(name=name, display_name=name, namespace=self._namespace or None)
        create = self._pipelines.pipeline_service_create_pipeline
        return find() or self._create(find, lambda: str(self._http.once(create, body)["pipeline_id"]))

    def _create(self, find: Callable[[], str], send: Callable[[], str]) -> str:
        """Send a request once and return the id of what it created.

        After an error, look for it: the answer may have been lost, or another process may have created it first.
        """
        try:
            return send()
        except InstarError:
            if existing := find():
                return existing
            raise

    def _get_workflow(self, run_id: str, **options: Any) -> Any:
        """Read a run by the v1beta1 API. The library has functions for v2beta1 only, so the request is written by hand."""
        path, header = "/apis/v1beta1/runs/{run_id}", {"Accept": "application/json"}
        return self._http.client.call_api(
            path,
            "GET",
            {"run_id": run_id},
            [],
            header,
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            **options,
        )

    def _reference(self, version: Version) -> Any:
        return self._kfp.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        )

    def _runtime(self, parameters: Any, pipeline_root: str) -> Any:
        return self._kfp.V2beta1RuntimeConfig(parameters=dict(parameters), pipeline_root=pipeline_root or None)


def _run(raw: dict[str, Any]) -> RunInfo:
    state = raw.get("state") or ""
    cancelled = workflow.ordered(state, raw.get("state_history") or [])
    return RunInfo(run_id=raw["run_id"], name=raw.get("display_name", ""), state=state, cancelled=cancelled)


def _schedule(raw: dict[str, Any]) -> Schedule:
    reference, runtime = raw.get("pipeline_version_reference") or {}, raw.get("runtime_config") or {}
    trigger = raw.get("trigger") or {}
    return Schedule(
        name=raw.get("display_name", ""),
        experiment=raw.get("experiment_id", ""),
        version=Version(
            pipeline_id=reference.get("pipeline_id", ""), version_id=reference.get("pipeline_version_id", "")
        ),
        cron=(trigger.get("cron_schedule") or {}).get("cron", ""),
        parameters=runtime.get("parameters") or {},
        pipeline_root=runtime.get("pipeline_root", ""),
        service_account=raw.get("service_account", ""),
        max_concurrency=int(raw.get("max_concurrency") or 0),
        no_catchup=bool(raw.get("no_catchup")),
        enabled=raw.get("status") != "DISABLED",
        schedule_id=raw["recurring_run_id"],
    )
