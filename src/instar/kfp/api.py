"""The calls of Kubeflow Pipelines that instar uses: an interface that is small enough for a fake in tests.

`instar.kfp.client.open_kfp` returns the client for a real API server. The interface has only ids and states. So the rules of
the chain (`instar.pipelines.chain.submission`) can be read and tested without the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

LIVE = frozenset({"", "RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "PAUSED", "CANCELING"})
CANCELLED = frozenset({"CANCELING", "CANCELED"})
"""States of a run that a person has terminated. It goes from CANCELING to FAILED (`instar.kfp.workflow`).

The server never sets CANCELED.
"""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of an uploaded pipeline."""

    pipeline_id: str
    version_id: str


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A run to create. `parameters` may name only inputs of the pipeline, because the server refuses others."""

    name: str
    experiment: str
    version: Version
    parameters: Mapping[str, Any]
    pipeline_root: str
    service_account: str


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as the server reports it. `state` is one of its runtime states, or empty just after creation.

    `cancelled` says that a person has terminated the run. `error` says why it failed. For a run that has ended, only
    `KfpApi.get_run` knows both for certain.
    """

    run_id: str
    name: str
    state: str
    error: str = ""
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recurring run. The server sets `schedule_id` and `enabled`, so they do not count when two schedules are compared."""

    name: str
    experiment: str
    version: Version
    cron: str
    parameters: Mapping[str, Any]
    pipeline_root: str = ""
    service_account: str = ""
    max_concurrency: int = 1
    no_catchup: bool = True
    enabled: bool = field(default=True, compare=False)
    schedule_id: str = field(default="", compare=False)


class KfpApi(Protocol):
    """Calls raise `UnavailableError` if it can help to try again, and `ConfigError` if the server refused the request.

    `create_run` and `create_schedule` are sent only once. After an error, the server may have created the run all the same.
    So the caller looks for it before it calls again.
    """

    def ensure_experiment(self, name: str) -> str:
        """Return the id of the experiment of this name. Create it if there is none."""
        ...

    def upload(self, pipeline: str, version: str, package: Path) -> Version:
        """Return the ids of a pipeline version. Upload it unless a version of this name exists already."""
        ...

    def find_runs(self, experiment: str, name: str) -> list[RunInfo]:
        """Return every run of this name in the experiment, oldest first. Archived runs are included."""
        ...

    def get_run(self, run_id: str) -> RunInfo | None:
        """Return one run, or None if it was deleted. For a run that has ended, `cancelled` and `error` are certain."""
        ...

    def create_run(self, spec: RunSpec) -> RunInfo:
        """Create a run. The server accepts several runs of the same name."""
        ...

    def terminate(self, run_id: str) -> None:
        """Ask the server to stop a run. Nothing happens if it has ended already."""
        ...

    def find_schedules(self, experiment: str, name: str) -> list[Schedule]:
        """Return the recurring runs of this name, oldest first."""
        ...

    def create_schedule(self, schedule: Schedule) -> str:
        """Create a recurring run and return its id."""
        ...

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a recurring run. It is no error if it is gone already."""
        ...
