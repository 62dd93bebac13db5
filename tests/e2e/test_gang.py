"""The whole task `gang` against a fake cluster whose pods are real processes: the same rollouts as in one process."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from instar import config as configs
from instar.errors import ConfigError, ContractError, LedgerError, StalledError
from instar.executor import Pointer
from instar.ledger import Entry
from instar.pipelines.chain.gang import launch, task
from instar.pipelines.chain.gang.task import main_gang
from instar.records import Records
from instar.workspace import Workspace, open_workspace
from support.fake_kube import FakeKube
from support.fake_pods import Pods
from support.gang_jobs import NAMESPACE, pod
from support.micro import EVOLUTION, micro, open_and_run

SHARDS = 2


@dataclass(frozen=True, kw_only=True)
class World:
    """An evolution that ran in one process, and the cluster that is to repeat its rollout."""

    kube: FakeKube
    pods: Pods
    workspace: Workspace
    rollout: Entry
    gather: Entry
    folder: Path

    @property
    def records(self) -> Records:
        return Records(self.workspace.store, EVOLUTION)

    def executor_input(self, stopped: str = "", **changes: Any) -> str:
        """Return the executor input of the task."""
        pointers = {}
        for port in ("policy", "tasks", "batch"):
            path = self.folder / f"{port}.json"
            digest = "" if stopped else self.rollout.body["inputs"][port]
            path.write_text(Pointer(digest=digest, type=port.capitalize(), stopped=stopped).dump())
            pointers[port] = {"artifacts": [{"name": port, "uri": str(path)}]}
        parameters = {
            "store": self.workspace.store_uri,
            "evolution": EVOLUTION,
            "iteration": 0,
            "plus_iteration": 1,
            "step": self.rollout.body["step"],
            "plus_step": 0,
            "config": configs.dumps(recipe().rollout),
            "shards": SHARDS,
            "pod": configs.dumps(pod("kind-dev", threads=1)),
            "parallelism": 1,
            "namespace": NAMESPACE,
            "workflow": "sec-run-1",
            **changes,
        }
        outputs = {
            p: {"artifacts": [{"name": p, "uri": str(self.folder / f"out-{p}")}]} for p in ("rollouts", "metrics")
        }
        return json.dumps(
            {
                "inputs": {"parameterValues": parameters, "artifacts": pointers},
                "outputs": {"artifacts": outputs, "outputFile": str(self.folder / "executor_output.json")},
            }
        )

    def output(self) -> dict[str, Any]:
        """Return the pointer that the task wrote."""
        return dict(json.loads((self.folder / "out-rollouts").read_text()))


def recipe() -> Any:
    base = micro(iterations=1, inner_steps=1, clock="rounds")
    return dataclasses.replace(base, rollout=dataclasses.replace(base.rollout, shards=SHARDS))


@pytest.fixture(scope="module")
def evolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the recipe once in one process. Its results are in the ledger, not in the records, so a gang has all to do."""
    folder = tmp_path_factory.mktemp("evolution") / "run"
    open_and_run(folder, recipe())
    return folder


@pytest.fixture
def world(evolution: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    kube = FakeKube().start()
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(launch, "BACKOFF_S", 0.02)
    workspace = open_workspace(evolution)
    entries = {e.body["stage"]: e for e in workspace.ledger.of("stage")}
    pods = Pods(kube, tmp_path)
    workflow = {"kind": "Workflow", "metadata": {"name": "sec-run-1", "uid": "uid-of-the-workflow"}}
    kube.put("workflows", workflow)
    yield World(
        kube=kube,
        pods=pods,
        workspace=workspace,
        rollout=entries["rollout"],
        gather=entries["gather"],
        folder=tmp_path,
    )
    for thread in pods.threads:
        thread.join(60)
    kube.stop()
    for record in Path(workspace.store_uri, "evolutions", EVOLUTION, "records").glob("*.json"):
        record.unlink()


def test_a_gang_gathers_what_one_process_gathers_and_never_works_twice(world: World) -> None:
    assert main_gang(world.executor_input()) == 0
    expected = world.gather.body["outputs"]["rollouts"]
    assert world.output() == {"digest": expected, "type": "Rollouts"}
    job = world.kube.only()
    assert [o["uid"] for o in job["metadata"]["ownerReferences"]] == ["uid-of-the-workflow"]
    assert world.pods.started == [(0, 0), (1, 0)]
    metrics = json.loads((world.folder / "out-metrics").read_text())
    assert metrics == world.gather.body["metrics"]
    body = json.loads((world.folder / "executor_output.json").read_text())["artifacts"]["rollouts"]["artifacts"][0]
    assert body["metadata"]["instar.digest"] == expected and body["metadata"]["instar.iteration"] == 1

    recorded = world.records.get(world.gather.body["key"])
    assert recorded is not None and recorded["outputs"] == world.gather.body["outputs"]
    (world.folder / "out-rollouts").unlink()
    world.kube.requests.clear()
    assert main_gang(world.executor_input()) == 0
    assert world.output()["digest"] == expected
    assert world.kube.requests == ["get"], "the workflow is looked up, no job is created"


@pytest.mark.slow  # test_stage_conformance.py has the record, unit/test_gang.py the exit codes
def test_a_shard_that_is_recorded_is_not_sampled_again_and_a_transient_failure_is_retried(world: World) -> None:
    world.pods.broken[1, 0] = {"INSTAR_RETRIES": "0", "INSTAR_STALL_S": "0.001", "INSTAR_GRACE_S": "1"}
    assert main_gang(world.executor_input()) == 0
    assert sorted(world.pods.started) == [(0, 0), (1, 0), (1, 1)]
    assert world.output()["digest"] == world.gather.body["outputs"]["rollouts"]


@pytest.mark.slow  # planted/test_launch.py has the class of the exit code of a pod
def test_a_permanent_failure_of_one_shard_is_the_failure_of_the_task(world: World) -> None:
    """A pod asks for a shard that does not exist; what the others recorded is used when the task is repeated."""
    argument = world.executor_input()
    for attempt in range(3):
        world.pods.broken[1, attempt] = {"JOB_COMPLETION_INDEX": "7"}  # shard 7 of 2
    with pytest.raises(ConfigError, match="exit code 10") as caught:
        main_gang(argument)
    assert "index 1" in caught.value.where
    assert world.pods.started == [(0, 0), (1, 0)], "no second try after a permanent code"
    assert not (world.folder / "out-rollouts").exists()
    world.pods.broken.clear()
    world.pods.started.clear()
    assert main_gang(argument) == 0
    assert world.output()["digest"] == world.gather.body["outputs"]["rollouts"]


def test_a_gang_that_succeeds_without_records_is_an_error(world: World) -> None:
    world.kube.on_create = lambda job: world.kube.finish("jobsets", job["metadata"]["name"], "Completed")
    with pytest.raises(LedgerError, match="2 missing, first shard 0"):
        main_gang(world.executor_input())


def test_a_stopped_evolution_starts_no_gang(world: World) -> None:
    assert main_gang(world.executor_input(stopped="target reached")) == 0
    assert world.output() == {"digest": "", "type": "Rollouts", "stopped": "target reached"}
    assert world.kube.requests == []


def test_a_workflow_that_does_not_exist_owns_nothing(world: World) -> None:
    """An owner with a made-up UID would have the job deleted as soon as it is created."""
    with pytest.raises(ConfigError, match="Workflow gone"):
        main_gang(world.executor_input(workflow="gone"))
    assert "create" not in world.kube.requests


def test_namespace_and_workflow_come_from_the_environment_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = json.loads(world.executor_input())
    for name in ("namespace", "workflow"):
        del raw["inputs"]["parameterValues"][name]
    with pytest.raises(ConfigError, match="INSTAR_NAMESPACE"):
        main_gang(json.dumps(raw))
    monkeypatch.setenv("INSTAR_NAMESPACE", NAMESPACE)
    monkeypatch.setenv("INSTAR_WORKFLOW", "sec-run-1")
    monkeypatch.setattr(task, "QUEUE_S", -(10**9))
    world.kube.on_create = lambda job: None
    with pytest.raises(StalledError, match="deadline"):
        main_gang(json.dumps(raw))


@pytest.mark.parametrize("shards", [1, 3, 4])
def test_another_number_of_shards_than_the_configuration_says_is_refused(world: World, shards: int) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.shards"):
        main_gang(world.executor_input(shards=shards))


def test_a_missing_input_is_named(world: World) -> None:
    raw = json.loads(world.executor_input())
    del raw["inputs"]["artifacts"]["tasks"]
    with pytest.raises(ContractError, match="policy, tasks, batch"):
        main_gang(json.dumps(raw))
