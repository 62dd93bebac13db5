"""What the fake Kubeflow Pipelines server keeps, and what each operation does with it.

It is as forgetful as the real one where that matters: several runs may share a name, a recurring run cannot be updated,
an unknown pipeline parameter is a refusal inside status 500, and a run that has ended cannot be terminated.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


@dataclass
class Objects:
    """Objects as the REST API shows them, by id. `on_create` is called with every new run, before the answer is sent.

    With `slow_cancel` a terminated run stays CANCELING until `set_state`.
    """

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_create: Callable[[dict[str, Any]], None] | None = None
    slow_cancel: bool = False

    def __post_init__(self) -> None:
        self._lock, self._counter = threading.RLock(), 0

    def set_state(self, run_id: str, state: str, error: str = "") -> None:
        """Put a run into a runtime state, as its pods would."""
        with self._lock:
            self.runs[run_id]["state"] = state
            if error:
                self.runs[run_id]["error"] = {"code": 9, "message": error}

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
        self._check(body)
        run_id = self._new("run")
        run = {**body, "run_id": run_id, "state": "PENDING", "created_at": self._at(), "storage_state": "AVAILABLE"}
        self.runs[run_id] = run
        return run

    def _create_schedule(self, body: dict[str, Any]) -> dict[str, Any]:
        self._check(body)
        cron = body["trigger"]["cron_schedule"]["cron"]
        if len(cron.split()) != 6 and not cron.startswith("@"):
            raise Refused(400, f"Invalid input error: Schedule cron is not supported: {cron}")
        schedule_id = self._new("schedule")
        status = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[body.pop("mode")]
        self.schedules[schedule_id] = {
            **body, "recurring_run_id": schedule_id, "status": status, "created_at": self._at()
        }  # fmt: skip
        return self.schedules[schedule_id]

    def _check(self, body: dict[str, Any]) -> None:
        if body["experiment_id"] not in self.experiments:
            raise Refused(404, f"ResourceNotFoundError: Experiment {body['experiment_id']} not found.")
        version = self.versions.get(body["pipeline_version_reference"]["pipeline_version_id"])
        if version is None or version["pipeline_id"] != body["pipeline_version_reference"]["pipeline_id"]:
            raise Refused(404, "ResourceNotFoundError: PipelineVersion not found.")
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
        if query["pipelineid"] not in self.pipelines:
            raise Refused(404, "ResourceNotFoundError: Pipeline not found.")
        of_pipeline = [v for v in self.versions.values() if v["pipeline_id"] == query["pipelineid"]]
        if any(v["display_name"] == query["name"] for v in of_pipeline):
            raise Refused(409, f"Already exist error: version {query['name']} already exist.")
        documents = list(yaml.safe_load_all(package))
        parameters = documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
        version_id = self._new("version")
        self.versions[version_id] = {
            "pipeline_id": query["pipelineid"], "pipeline_version_id": version_id, "display_name": query["name"],
            "name": query["name"], "parameters": parameters, "documents": documents, "created_at": self._at(),
        }  # fmt: skip
        return {k: v for k, v in self.versions[version_id].items() if k != "documents"}

    def _one(self, operation: str, item_id: str) -> dict[str, Any]:
        target = self.schedules if "schedule" in operation else self.runs
        if item_id not in target:
            raise Refused(404, f"ResourceNotFoundError: {item_id} not found.")
        item = target[item_id]
        if operation == "get_run":
            return item
        if operation == "terminate_run":
            if item["state"] in ENDED:
                raise Refused(400, f"Invalid input error: Failed to terminate run {item_id}. It has finished.")
            item["state"] = "CANCELING" if self.slow_cancel else "CANCELED"
        elif operation == "disable_schedule":
            item["status"] = "DISABLED"
        else:
            del target[item_id]
        return {}
