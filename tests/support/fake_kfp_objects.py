"""What the fake Kubeflow Pipelines server keeps, and what each operation does with it.

It is as forgetful as the real one where that matters: several runs may share a name, a recurring run cannot be updated,
a parameter that is unknown or a version that was deleted is a refusal inside status 500, an upload without the right one without
a reason, and a run that has ended, or is being ended, cannot be terminated.

States follow Kubeflow Pipelines 2.17.0, files below `backend/src/apiserver` (2.16.1 and the main branch of 2026-08 do the same):

* Created: PENDING (`resource/resource_manager.go:CreateRun`, `storage/run_store.go:CreateRun`, which begins the history).
* The persistence agent reports a workflow: its phase, or CANCELING where its deadline is 0 and it has not ended; the history gets
  the state unless it is its last (`resource_manager.go:ReportWorkflowResource`, `run_store.go:UpdateRun`).
* Terminate: CANCELING from PENDING, RUNNING, PAUSED and unspecified, else 400; the workflow's deadline becomes 0, the history stays
  (`run_store.go:TerminateRun`, `resource_manager.go:TerminateWorkflow`). When the workflow ends the agent reports FAILED;
  nothing sets CANCELED, ever.
* Retry: the workflow is made anew without the deadline, and its phase is the state (`resource_manager.go:RetryRun`,
  `backend/src/common/util/workflow.go:GenerateRetryExecution`).

The agent of this server reports a terminated workflow twice if it was running, and if no pod had started only when it has ended.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED"}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


@dataclass
class Objects:
    """Objects as the REST API shows them, by id. `on_create` is called with every new run, before the answer is sent.

    With `slow_cancel` the workflow of a terminated run goes on until `report`.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_create: Callable[[dict[str, Any]], None] | None = None
    slow_cancel: bool = False
    may_upload: bool = True

    def __post_init__(self) -> None:
        self._lock, self._counter = threading.RLock(), 0
        self.workflows: dict[str, dict[str, Any]] = {}

    def report(self, run_id: str, state: str, error: str = "", *, before_terminate: bool = False) -> None:
        """Report RUNNING, SUCCEEDED or FAILED of a run's workflow, as the persistence agent does, with a failed pod's message.

        `before_terminate`: what it had read before the deadline was set to 0, and sends after.
        """
        phase = {"RUNNING": "Running", "SUCCEEDED": "Succeeded", "FAILED": "Failed"}[state]
        with self._lock:
            workflow = self._workflow(run_id)
            workflow["status"]["phase"] = phase
            if error:
                name = f"{run_id}.root.update.executor"
                node = {"name": name, "displayName": "executor", "type": "Pod", "phase": "Failed", "message": error}
                workflow["status"] |= {"nodes": {name: node}, "message": "child failed"}
            terminating = workflow["spec"].get("activeDeadlineSeconds") == 0 and state == "RUNNING"
            self._record(run_id, "CANCELING" if terminating and not before_terminate else state)

    def cancel(self, run_id: str) -> None:
        """Press Terminate, and let the workflow end unless `slow_cancel`."""
        self.work("terminate_run", (run_id,), {}, None)

    def retry(self, run_id: str) -> None:
        """Press Retry."""
        with self._lock:
            workflow = self._workflow(run_id)
            workflow["spec"].pop("activeDeadlineSeconds", None)
            workflow["status"] = {"phase": "Running"}
            self._record(run_id, "RUNNING")

    def is_cancelled(self, run_id: str) -> bool:
        """Return whether the workflow of a run was terminated."""
        return self._workflow(run_id)["spec"].get("activeDeadlineSeconds") == 0

    def _workflow(self, run_id: str) -> dict[str, Any]:
        return self.workflows.setdefault(run_id, {"spec": {}, "status": {"phase": ""}})

    def _record(self, run_id: str, state: str) -> None:
        run = self.runs[run_id]
        run["state"] = state
        history = run.setdefault("state_history", [])
        if not history or history[-1]["state"] != state:
            history.append({"update_time": self._at(), "state": state})

    def _terminate(self, run_id: str) -> None:
        before = self.runs[run_id]["state"]
        if before not in ("PENDING", "RUNNING", "PAUSED", "RUNTIME_STATE_UNSPECIFIED"):
            raise Refused(400, f"Invalid input error: Failed to terminate a run {run_id}. Row not found")
        self.runs[run_id]["state"] = "CANCELING"
        self._workflow(run_id)["spec"]["activeDeadlineSeconds"] = 0
        if self.slow_cancel:
            return
        if before == "RUNNING":
            self.report(run_id, "RUNNING")
        self.report(run_id, "FAILED")

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of one display name, oldest first."""
        return [run for run in self.runs.values() if run["display_name"] == name]

    def add_version(self) -> tuple[str, str]:
        """Add a pipeline with one version whose parameters are not checked; return both ids."""
        with self._lock:
            pipeline = self._new("pipeline")
            self.pipelines[pipeline] = {"pipeline_id": pipeline, "display_name": pipeline}
            version = self._new("version")
            self.versions[version] = {"pipeline_id": pipeline, "pipeline_version_id": version, "display_name": version}
        return pipeline, version

    def work(self, operation: str, ids: tuple[str, ...], query: dict[str, str], body: Any) -> dict[str, Any]:
        """Execute one request."""
        created = None
        with self._lock:
            if operation == "create_run":
                answer = created = self._create_run(body)
            elif operation == "create_schedule":
                answer = self._create_schedule(body)
            elif operation.startswith("list_"):
                answer = self._list(operation, ids, query)
            elif operation == "create_experiment":
                answer = self._unique(self.experiments, "experiment", body)
            elif operation == "create_pipeline":
                answer = self._unique(self.pipelines, "pipeline", body)
            elif operation == "upload_version":
                answer = self._upload(query, body)
            else:
                answer = self._one(operation, ids[0])
        if created is not None and self.on_create is not None:
            self.on_create(created)
        return answer

    def _new(self, kind: str) -> str:
        self._counter += 1
        return f"{kind}-{self._counter:04d}"

    def _at(self) -> str:
        return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._counter)).isoformat().replace("+00:00", "Z")

    def _create_run(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body, "Failed to create a run due to error fetching manifest")
        run_id = self._new("run")
        run = {**body, "run_id": run_id, "created_at": self._at(), "storage_state": "AVAILABLE"}
        self.runs[run_id] = run
        self._record(run_id, "PENDING")
        return run

    def _create_schedule(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body, "Failed to create a recurring run with an invalid pipeline spec manifest")
        cron = body["trigger"]["cron_schedule"]["cron"]
        if len(cron.split()) != 6 and not cron.startswith("@"):
            raise Refused(400, f"Invalid input error: Schedule cron is not supported: {cron}")
        schedule_id = self._new("schedule")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body.pop("mode")]
        self.schedules[schedule_id] = {
            **body,
            "recurring_run_id": schedule_id,
            "status": status,
            "created_at": self._at(),
        }
        return self.schedules[schedule_id]

    def _check(self, body: dict[str, Any], failed: str) -> None:
        if body["experiment_id"] not in self.experiments:
            raise Refused(404, f"ResourceNotFoundError: Experiment {body['experiment_id']} not found.")
        version_id = body["pipeline_version_reference"]["pipeline_version_id"]
        version = self.versions.get(version_id)
        # `resource_manager.go:CreateRun, CreateJob`: whatever kept the manifest from being read is wrapped as internal.
        if version is None:
            fetched = "Failed to fetch a template due to error retrieving pipeline version"
            why = f"ResourceNotFoundError: PipelineVersion {version_id} not found"
            raise Refused(500, f"InternalServerError: {failed}: {fetched}: {why}")
        if version["pipeline_id"] != body["pipeline_version_reference"]["pipeline_id"]:
            raise Refused(500, f"InternalServerError: {failed}: Invalid input error: it belongs to another pipeline")
        declared, given = version.get("parameters"), body["runtime_config"].get("parameters", {})
        if declared is not None:
            for name in given.keys() - declared.keys():
                raise Refused(500, f"InternalServerError: Invalid input error: Unrecognized input parameter: {name}")
            for name in {n for n, d in declared.items() if not d.get("isOptional")} - given.keys():
                raise Refused(500, f"InternalServerError: Invalid input error: parameter {name} is not optional")

    def _list(self, operation: str, ids: tuple[str, ...], query: dict[str, str]) -> dict[str, Any]:
        source, key = {
            "list_runs": (self.runs, "runs"),
            "list_experiments": (self.experiments, "experiments"),
            "list_pipelines": (self.pipelines, "pipelines"),
            "list_versions": (self.versions, "pipeline_versions"),
            "list_schedules": (self.schedules, "recurringRuns"),
        }[operation]
        items = list(source.values())
        if ids:
            items = [i for i in items if i["pipeline_id"] == ids[0]]
        if query.get("experiment_id"):
            items = [i for i in items if i["experiment_id"] == query["experiment_id"]]
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            if predicate["key"] not in ("display_name", "name") or predicate["operation"] != "EQUALS":
                raise Refused(400, f"Invalid input error: unsupported predicate {predicate}")
            items = [i for i in items if i["display_name"] == predicate["string_value"]]
        if query.get("sort_by", "created_at asc").endswith("desc"):
            items.reverse()
        first, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
        page: dict[str, Any] = {"total_size": len(items)}
        if items[first : first + size]:  # the server leaves out an empty list
            page[key] = items[first : first + size]
        if len(items) > first + size:
            page["next_page_token"] = str(first + size)
        return page

    def _unique(self, target: dict[str, dict[str, Any]], kind: str, body: dict[str, Any]) -> dict[str, Any]:
        if any(item["display_name"] == body["display_name"] for item in target.values()):
            raise Refused(409, f"Already exist error: The name {body['display_name']} already exist.")
        made = {**body, f"{kind}_id": self._new(kind), "created_at": self._at()}
        target[made[f"{kind}_id"]] = made
        return made

    def _upload(self, query: dict[str, str], package: bytes) -> dict[str, Any]:
        # `server/pipeline_upload_server.go:uploadPipelineVersion` says the same for every reason, a missing right too.
        if query["pipelineid"] not in self.pipelines or not self.may_upload:
            raise Refused(400, "Failed to create a pipeline version")
        of_pipeline = [v for v in self.versions.values() if v["pipeline_id"] == query["pipelineid"]]
        if any(v["display_name"] == query["name"] for v in of_pipeline):
            raise Refused(409, f"Already exist error: version {query['name']} already exist.")
        documents = list(yaml.safe_load_all(package))
        parameters = documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
        version_id = self._new("version")
        self.versions[version_id] = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": version_id,
            "display_name": query["name"],
            "name": query["name"],
            "parameters": parameters,
            "documents": documents,
            "created_at": self._at(),
        }
        return {k: v for k, v in self.versions[version_id].items() if k != "documents"}

    def _one(self, operation: str, item_id: str) -> dict[str, Any]:
        target = self.schedules if "schedule" in operation else self.runs
        if item_id not in target:
            raise Refused(404, f"ResourceNotFoundError: {item_id} not found.")
        item = target[item_id]
        if operation == "get_run":
            return item
        if operation == "get_workflow":  # the manifest that was reported last, as text
            workflow = self.workflows.get(item_id, {"status": {"phase": ""}})
            manifest = {"workflow_manifest": json.dumps(workflow)} if workflow["status"]["phase"] else {}
            return {"run": {"id": item_id}, "pipeline_runtime": manifest}
        if operation == "terminate_run":
            self._terminate(item_id)
        elif operation == "disable_schedule":
            item["status"] = "DISABLED"
        else:
            del target[item_id]
        return {}
