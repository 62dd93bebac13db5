"""One whole evolution: both clocks and both runner modes do the same work."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from instar import config as configs
from instar.artifact import Rollouts, Tasks
from instar.components.generated.item import origin
from instar.components.policy_io import FINGERPRINT
from instar.errors import LedgerError, LockedError
from instar.ledger import Entry
from instar.pipelines.evolution import evolve
from instar.pipelines.gate import GateConfig
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.state import LIFETIMES
from instar.status import status
from instar.workspace import create_workspace, locked, open_workspace
from support.micro import EVOLUTION, micro, micro_generated, open_and_run, pools
from support.micro_continuous import micro_continuous


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The micro recipe under both clocks, run to the end without a fault."""
    import torch

    torch.set_num_threads(1)
    out = {}
    for clock in ("rounds", "fused"):
        out[clock] = tmp_path_factory.mktemp(clock)
        open_and_run(out[clock], micro(clock=clock))
    return out


@pytest.mark.parametrize("build", [micro, micro_generated, micro_continuous])
def test_both_clocks_carry_the_same_from_one_iteration_to_the_next(
    build: Callable[..., Recipe], unbroken: dict[str, Path], tmp_path: Path
) -> None:
    """Every entry has one digest under both clocks, and what it says of policies can be looked up in the store."""
    runs = unbroken
    if build is not micro:
        runs = {clock: tmp_path / clock for clock in ("rounds", "fused")}
        for clock, directory in runs.items():
            open_and_run(directory, build(clock=clock, inner_steps=2))
    rounds, fused = carried(runs["rounds"]), carried(runs["fused"])
    assert len(rounds) == 3 and rounds == fused
    assert len({digests["policy"] for digests in rounds}) == 3, "an iteration left the policy as it was"
    for directory in runs.values():
        stored = {digest for entry in ledger(directory) for digest in entry.body["outputs"].values()}
        assert not named_digests(directory) - stored, "a table names what the store does not hold"
    assert acted(runs["fused"]) <= weights(runs["rounds"]) and weights(runs["fused"]) < weights(runs["rounds"])


def carried(directory: Path) -> list[dict[str, str]]:
    """Return the digest of every entry after each iteration, the preparation first."""
    after: dict[int, dict[str, str]] = {}
    now: dict[str, str] = {}
    for entry in ledger(directory):
        now |= {name: digest for name, digest in entry.body["outputs"].items() if name in LIFETIMES}
        after[entry.body["iteration"]] = dict(now)
    return list(after.values())


def ledger(directory: Path) -> list[Entry]:
    return list(open_workspace(directory).ledger.of("stage"))


def outputs(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the folder of everything that a stage has written."""
    workspace = open_workspace(directory)
    for entry in ledger(directory):
        yield from ((name, workspace.cas.get(digest)) for name, digest in entry.body["outputs"].items())


def named_digests(directory: Path) -> set[str]:
    """Return every digest that stands in a table or a JSON file of any output."""
    texts: list[str] = []
    for _, folder in outputs(directory):
        for file in folder.rglob("*"):
            if file.suffix == ".parquet":
                texts.append(json.dumps(pq.read_table(file).to_pylist()))
            elif file.suffix in (".json", ".jsonl"):
                texts.append(file.read_text())
    return {digest for text in texts for digest in re.findall(r"sha256:[0-9a-f]{64}", text)}


def acted(directory: Path) -> set[str]:
    """Return the weights that rollouts and the origins of generated tasks name."""
    named: set[str] = set()
    for name, folder in outputs(directory):
        if name == "rollouts":
            named |= {row.policy for row in Rollouts(folder).read()}
        if name == "generated":
            named |= {origin(row).policy for row in Tasks(folder).read()}
    return named


def weights(directory: Path) -> set[str]:
    """Return the fingerprints of the policies in the store."""
    return {
        json.loads((folder / FINGERPRINT).read_text())["fingerprint"]
        for name, folder in outputs(directory)
        if name == "policy"
    }


def test_rollback_returns_to_the_base_and_goes_on(tmp_path: Path) -> None:
    """A learning rate that ruins the policy: the gate rolls back to the base, whose optimiser starts afresh."""
    recipe = micro(clock="rounds", inner_steps=1, gate=GateConfig(rollback_margin=0.0))
    recipe = dataclasses.replace(
        recipe,
        update=dataclasses.replace(recipe.update, lr=0.5, warmup_steps=0),
        evaluate=dataclasses.replace(recipe.evaluate, tasks_per_arm=20),
        dataset_prep=dataclasses.replace(recipe.dataset_prep, pools=pools(val=20)),
    )
    outcome = open_and_run(tmp_path, recipe)
    ledger = open_workspace(tmp_path).ledger
    assert [e.body["decision"]["action"] for e in ledger.of("gate")] == ["continue", "rollback", "rollback"]
    base = next(e for e in ledger.of("stage") if e.body["stage"] == "dataset_prep").body["outputs"]["policy"]
    updates = [e for e in ledger.of("stage") if e.body["stage"] == "update"]
    assert [e.body["inputs"]["policy"] for e in updates] == [base, base]
    assert status(open_workspace(tmp_path))["policy"] == outcome.state.policy.digest == base
    assert "trainer" not in updates[1].body["inputs"]
    assert updates[1].body["outputs"]["policy"] != updates[0].body["outputs"]["policy"], (
        "a new step has new random numbers"
    )


def test_running_again_runs_nothing(unbroken: dict[str, Path]) -> None:
    before = open_workspace(unbroken["rounds"]).ledger.head
    open_and_run(unbroken["rounds"], micro(clock="rounds"))
    assert open_workspace(unbroken["rounds"]).ledger.head == before


@pytest.mark.slow  # every stage runs as a process in test_stage_conformance.py, and every task in test_chain.py
def test_subprocess_mode_writes_the_same_ledger(tmp_path: Path) -> None:
    recipe = micro(clock="fused", iterations=1)
    heads = []
    for mode in ("inprocess", "subprocess"):
        open_and_run(tmp_path / mode, recipe, mode=mode)
        heads.append(open_workspace(tmp_path / mode).ledger.head)
    assert heads[0] == heads[1]


@pytest.mark.parametrize("mode", ["mixed", pytest.param("alternate", marks=pytest.mark.slow)])
def test_both_clocks_make_and_try_the_same_generated_tasks(mode: str, tmp_path: Path) -> None:
    """Four inner steps in two iterations; in mode `alternate` the second and the fourth attempt generated tasks alone."""
    change = {"curriculum": {"generated": {"prompts": 4, "mode": mode}}}
    made = []
    for clock in ("rounds", "fused"):
        state = open_and_run(tmp_path / clock, configs.merge(micro_generated(clock=clock), change)).state
        assert state.generated is not None and state.curriculum is not None and state.trainer is not None
        parts = (state.policy, state.trainer, state.curriculum, state.generated)
        made.append([part.digest for part in parts])
    assert made[0] == made[1]
    steps = [
        e.body["metrics"] for e in open_workspace(tmp_path / "rounds").ledger.of("stage") if e.body["stage"] == "reward"
    ]
    assert [m["num_rollouts"] / 4 for m in steps] == ([12, 16, 16, 16] if mode == "mixed" else [12, 4, 12, 4])


def test_two_runs_on_one_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError, match="no other run"), locked(tmp_path):
        pass


def test_a_second_writer_of_the_ledger_is_refused(tmp_path: Path) -> None:
    recipe = micro(clock="rounds", iterations=0)
    first = create_workspace(tmp_path, EVOLUTION)
    second = create_workspace(tmp_path, EVOLUTION)
    first.ledger.append("open", {"recipe": {}}, {})
    with pytest.raises(LockedError, match="only writer"):
        evolve(LocalRunner(second), recipe)


def test_resume_refuses_changed_code(unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from instar.pipelines import lifecycle

    monkeypatch.setattr(lifecycle, "code_version", lambda: "0.0.0+other")
    with pytest.raises(LedgerError, match="accept-code"):
        open_and_run(unbroken["rounds"], micro(clock="rounds"))
