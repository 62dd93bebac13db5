"""One declaration, several uses: every stage gives the same artifacts as a call, as a command and from KFP's executor input.

The calls are those of whole micro evolutions of text and of control under the `rounds` clock, plus one fused segment each.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instar import contract
from instar.components.rollout.gather import GatherConfig
from instar.errors import ConfigError, ContractError, InternalError, LedgerError
from instar.ledger import Entry
from instar.manifest import blob_name
from instar.pipelines import component_docs, stage_command
from instar.pipelines.catalog import STAGES
from instar.pipelines.recipe import Recipe
from instar.workspace import Workspace, open_workspace
from support.micro import micro, open_and_run
from support.micro_continuous import micro_continuous


@pytest.fixture(scope="module", params=[micro, micro_continuous], ids=["text", "continuous"])
def evolution(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Recipe]]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("rounds")
    make: Callable[..., Recipe] = request.param
    recipe = make(clock="rounds", iterations=1, rollout=dataclasses.replace(make().rollout, shards=2))
    open_and_run(path, recipe)
    open_and_run(path.with_name(f"{path.name}-fused"), dataclasses.replace(recipe, clock="fused"))
    yield path, recipe
    torch.set_num_threads(before)


def called(path: Path, stage: str) -> tuple[Workspace, Entry]:
    """Return the workspace and the last call of a stage."""
    workspace = open_workspace(path if stage != "fused" else path.with_name(f"{path.name}-fused"))
    return workspace, [e for e in workspace.ledger.of("stage") if e.body["stage"] == stage][-1]


def stage_config(recipe: Recipe, stage: str) -> str:
    from instar.config import dumps

    special = {"fused": recipe.fused, "evaluate": lambda: recipe.test, "gather": GatherConfig}
    value: Any = special.get(stage, lambda: getattr(recipe, stage))()
    return dumps(value)


def shard(entry: Entry) -> tuple[int, int]:
    number, total = entry.body.get("shard", (0, 1))
    return number, total


def command(workspace: Workspace, entry: Entry, recipe: Recipe) -> list[str]:
    stage = entry.body["stage"]
    out = [stage, "--store", workspace.store_uri, "--evolution", workspace.evolution, "--step", str(entry.body["step"])]
    out += ["--config", stage_config(recipe, stage), "--shard", "/".join(map(str, shard(entry)))]
    for name, digest in entry.body["inputs"].items():
        out += [f"--{contract.port_of(name).replace('_', '-')}", digest]
    return out


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_command_line_equals_call(stage: str, evolution: tuple[Path, Recipe], tmp_path: Path) -> None:
    path, recipe = evolution
    workspace, entry = called(path, stage)
    result = tmp_path / "done.json"
    assert (
        stage_command.main([*command(workspace, entry, recipe), "--work", str(tmp_path), "--result", str(result)]) == 0
    )
    done = json.loads(result.read_text())
    assert done["outputs"] == entry.body["outputs"]
    assert done["metrics"] == entry.body["metrics"]


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_executor_input_equals_call(stage: str, evolution: tuple[Path, Recipe], tmp_path: Path) -> None:
    path, recipe = evolution
    workspace, entry = called(path, stage)
    inputs: dict[str, Any] = {}
    outputs = {}
    for name, digest in entry.body["inputs"].items():
        pointer = tmp_path / f"in-{name}"
        pointer.write_text(json.dumps({"digest": digest}))
        inputs.setdefault(contract.port_of(name), {"artifacts": []})["artifacts"].append({"uri": str(pointer)})
    for name in contract.ports(STAGES[stage].outs):
        shown = f"out_{name}" if name in contract.ports(STAGES[stage].ins) else name
        outputs[shown] = {"artifacts": [{"name": shown, "uri": str(tmp_path / "out" / shown)}]}
    parameters = {
        "store": workspace.store_uri,
        "evolution": workspace.evolution,
        "step": float(entry.body["step"]),
        "config": stage_config(recipe, stage),
        "shard": float(shard(entry)[0]),
        "shards": float(shard(entry)[1]),
    }
    raw = {
        "inputs": {"parameterValues": parameters, "artifacts": inputs},
        "outputs": {"artifacts": outputs, "outputFile": str(tmp_path / "executor_output.json")},
    }
    assert stage_command.main([stage, "--work", str(tmp_path / "work"), "--executor-input", json.dumps(raw)]) == 0
    written = json.loads((tmp_path / "executor_output.json").read_text())["artifacts"]
    found = {n.removeprefix("out_"): v["artifacts"][0]["metadata"]["instar.digest"] for n, v in written.items()}
    assert {name: digest for name, digest in found.items() if digest} == entry.body["outputs"]
    for name in outputs:
        pointer = json.loads((tmp_path / "out" / name).read_text())
        assert pointer["digest"] == found[name.removeprefix("out_")]


def test_a_recorded_result_is_not_computed_again_unless_its_bytes_are_gone(
    evolution: tuple[Path, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipe = evolution
    workspace, entry = called(path, "curriculum")
    copy = tmp_path / "store"
    shutil.copytree(path / "store", copy)
    words = [*command(workspace, entry, recipe), "--record", "--result", str(tmp_path / "done.json")]
    words[words.index("--store") + 1] = str(copy)
    assert stage_command.main(words) == 0

    def refuse(*args: object) -> None:
        raise AssertionError(f"computed again: {args[0]}")

    produce = stage_command._produce
    monkeypatch.setattr(stage_command, "_produce", refuse)
    assert stage_command.main(words) == 0
    assert json.loads((tmp_path / "done.json").read_text())["outputs"] == entry.body["outputs"]
    blob = copy / blob_name(next(iter(workspace.cas.manifest(entry.body["outputs"]["batch"]).files.values())).sha256)
    blob.unlink()
    with pytest.raises(InternalError, match="computed again"):  # the name that the result file gives to the unforeseen
        stage_command.main(words)
    monkeypatch.setattr(stage_command, "_produce", produce)
    assert stage_command.main(words) == 0 and blob.exists()
    blob.unlink()

    def other(*_: Any) -> dict[str, Any]:
        outputs = dict.fromkeys(entry.body["outputs"], "sha256:" + "0" * 64)
        return {"outputs": outputs, "metrics": {}, "perf": {}}

    monkeypatch.setattr(stage_command, "_produce", other)
    with pytest.raises(LedgerError, match="a different one"):
        stage_command.main(words)


def test_wrong_wiring_is_refused(evolution: tuple[Path, Recipe], tmp_path: Path) -> None:
    path, recipe = evolution
    workspace, entry = called(path, "reward")
    swapped = {**entry.body["inputs"], "rollouts": entry.body["inputs"]["tasks"]}
    wrong = Entry(seq=0, prev="", kind="stage", body={**entry.body, "inputs": swapped}, time={})
    with pytest.raises(ContractError, match="rollouts"):
        stage_command.main([*command(workspace, wrong, recipe), "--work", str(tmp_path)])
    missing = {name: d for name, d in entry.body["inputs"].items() if name != "policy"}
    wrong = Entry(seq=0, prev="", kind="stage", body={**entry.body, "inputs": missing}, time={})
    with pytest.raises(ContractError, match="policy"):
        stage_command.main([*command(workspace, wrong, recipe), "--work", str(tmp_path)])


def test_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="rollout"):
        stage_command.main(["rolout"])


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_readme_of_a_component_is_what_its_contract_says(name: str) -> None:
    text = component_docs.describe(STAGES[name])
    assert all(f"`{port}`" in text for port in (*contract.ports(STAGES[name].ins), *contract.ports(STAGES[name].outs)))
    written = component_docs.readme_path(STAGES[name]).read_text()
    assert written == text, "run `make docs`"
