"""What instar asks of Kubeflow Pipelines: an interface small enough to fake.

`instar.kfp.client.open_kfp` returns the client that speaks to a real API server. The interface carries ids and states only,
so that the chain's rules (`instar.pipelines.chain.submission`) can be read and tested without the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

LIVE = frozenset({"", "RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "PAUSED", "CANCELING"})
CANCELLED = frozenset({"CANCELING", "CANCELED"})
"""The server never sets the second of them: a run that a person has terminated goes on to FAILED (`instar.kfp.workflow`)."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of an uploaded pipeline."""

    pipeline_id: str
    version_id: str


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A run to create. `parameters` must name inputs of the pipeline exactly: the server refuses an unknown one."""

    name: str
    experiment: str
    version: Version
    parameters: Mapping[str, Any]
    pipeline_root: str
    service_account: str


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run as the server reports it. `state` is one of its runtime states, or empty just after creation.

    `cancelled`: a person has terminated it. Of a run that has ended, only `KfpApi.get_run` knows it for certain, and `error`.
    """

    run_id: str
    name: str
    state: str
    error: str = ""
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recurring run. `schedule_id` and `enabled` are the server's and do not count when two are compared."""

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
    """Calls raise `UnavailableError` for what trying again can cure and `ConfigError` for a request that was refused.

    `create_run` and `create_schedule` are sent once: after an error the caller looks before it asks again.
    """

    def ensure_experiment(self, name: str) -> str:
        """Return the id of the experiment of this name, which is created when there is none."""
        ...

    def upload(self, pipeline: str, version: str, package: Path) -> Version:
        """Return the ids of a pipeline version, uploaded unless a version of this name exists already."""
        ...

    def find_runs(self, experiment: str, name: str) -> list[RunInfo]:
        """Return every run of this name in the experiment, oldest first; archived ones too."""
        ...

    def get_run(self, run_id: str) -> RunInfo | None:
        """Return one run, or None when it was deleted. Of one that has ended, whether a person ended it and why it failed."""
        ...

    def create_run(self, spec: RunSpec) -> RunInfo:
        """Create a run. The server accepts several runs of one name."""
        ...

    def terminate(self, run_id: str) -> None:
        """Ask the server to stop a run; one that has ended already is left alone."""
        ...

    def find_schedules(self, experiment: str, name: str) -> list[Schedule]:
        """Return the recurring runs of this name, oldest first."""
        ...

    def create_schedule(self, schedule: Schedule) -> str:
        """Create a recurring run and return its id."""
        ...

    def delete_schedule(self, schedule_id: str) -> None:
        """Delete a recurring run; one that is gone already is no error."""
        ...
