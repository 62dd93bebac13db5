"""The Argo export: it runs the same evolution, keeps every field, and a misspelled field is caught."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from instar.errors import ContractError
from instar.pipelines.argo import check_round_trip, write_workflow
from instar.pipelines.gate import GateConfig
from instar.pipelines.pools import Images, load
from instar.workspace import Workspace, open_workspace
from support.inline_argo import Argo
from support.micro import EVOLUTION, micro, open_and_run

IMAGES = Images(digests={"instar-cpu": "sha256:" + "a" * 64, "instar-cuda": "sha256:" + "b" * 64})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.mark.parametrize("stops", [False, True])
def test_the_workflow_does_what_one_process_does(stops: bool, tmp_path: Path) -> None:
    recipe = micro(
        iterations=2,
        gate=GateConfig(target=0.02 if stops else None),
        rollout=dataclasses.replace(micro().rollout, shards=2),
        clock="rounds",
        inner_steps=1,
    )
    open_and_run(tmp_path / "local", recipe)
    write_workflow(recipe, load("kind-dev"), IMAGES, tmp_path / "argo.yaml")
    workflow = yaml.safe_load((tmp_path / "argo.yaml").read_text())
    store = str(tmp_path / "store")
    argo = Argo(workflow, {"store": store, "evolution": EVOLUTION}, tmp_path / "outputs")
    argo.run("evolution", {})
    local = [(e.kind, e.body) for e in open_workspace(tmp_path / "local").ledger.entries]
    made = Workspace(tmp_path / "w", EVOLUTION, store).ledger.entries
    assert [(e.kind, e.body) for e in made[:-1]] == local
    assert made[-1].kind == "close"
    assert sum(name == "iterate-update" for name in argo.calls) == (0 if stops else 2)
    assert argo.calls[-1] == "finish-advance"


@pytest.mark.slow  # a chain that dies everywhere is repaired in tests/e2e/test_chain.py
def test_a_workflow_that_died_is_submitted_again(tmp_path: Path) -> None:
    recipe = micro(iterations=1, inner_steps=1)
    open_and_run(tmp_path / "local", recipe)
    write_workflow(recipe, load("kind-dev"), IMAGES, tmp_path / "argo.yaml")
    workflow = yaml.safe_load((tmp_path / "argo.yaml").read_text())
    given = {"store": str(tmp_path / "store"), "evolution": EVOLUTION}
    for number, victim in enumerate(("begin-evaluate", "iterate-evaluate", "finish-advance")):
        argo = Argo(workflow, given, tmp_path / f"outputs-{number}", f"uid-{number}", victim)
        with pytest.raises(InterruptedError, match=victim):
            argo.run("evolution", {})
    argo = Argo(workflow, given, tmp_path / "outputs", "uid-last")
    argo.run("evolution", {})
    assert argo.calls == ["prepare", "finish-open", "finish-evaluate", "finish-advance"]
    local = [(e.kind, e.body) for e in open_workspace(tmp_path / "local").ledger.entries]
    made = Workspace(tmp_path / "w", EVOLUTION, given["store"]).ledger.entries
    assert [(e.kind, e.body) for e in made[:-1]] == local
    Argo(workflow, given, tmp_path / "outputs-done", "uid-done").run("evolution", {})  # nothing is left to do


@pytest.mark.parametrize("profile", ["kind-dev", "gpu-prod"])
def test_no_field_is_lost_and_the_bytes_are_stable(profile: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_workflow(micro(), load(profile), IMAGES, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_misspelled_field_is_caught(tmp_path: Path) -> None:
    write_workflow(micro(), load("gpu-prod"), IMAGES, tmp_path / "argo.yaml")
    workflow = yaml.safe_load((tmp_path / "argo.yaml").read_text())
    template = next(t for t in workflow["spec"]["templates"] if "nodeSelector" in t)
    template["nodeSelecter"] = template.pop("nodeSelector")
    with pytest.raises(ContractError, match="nodeSelecter"):
        check_round_trip(yaml.safe_dump(workflow))
