"""What a recipe may ask of the loop: another reference, the last step, other evolutions. In process, and as tasks of pipelines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from instar import config as configs
from instar.artifact import Source
from instar.cli.explain import explain
from instar.cli.resolve import resolve
from instar.components.dataset_prep.config import TextConfig
from instar.components.update.config import Kl
from instar.errors import ConfigError, LedgerError
from instar.ledger import Ledger
from instar.pipelines.argo import write_workflow
from instar.pipelines.chain import control_command
from instar.pipelines.containers import ir
from instar.pipelines.gate import GateConfig
from instar.pipelines.kubeflow import compile_graph
from instar.pipelines.pools import Images, load
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import trace
from instar.workspace import Workspace, create_workspace, open_workspace
from support.inline_argo import Argo
from support.inline_engine import run_program
from support.micro import EVOLUTION, micro, open_and_run, pools

IMAGES = Images(digests={"instar-cpu": "sha256:" + "a" * 64, "instar-cuda": "sha256:" + "b" * 64})


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def stages(directory: Path, name: str) -> list[dict[str, Any]]:
    return [dict(e.body) for e in open_workspace(directory).ledger.of("stage") if e.body["stage"] == name]


def referring(**changes: Any) -> Recipe:
    recipe = micro(reference="iteration", **changes)
    return dataclasses.replace(recipe, update=dataclasses.replace(recipe.update, kl=Kl(place="loss", coef=0.01)))


def test_the_reference_is_the_policy_that_began_the_iteration(tmp_path: Path) -> None:
    """Three iterations of two steps; both clocks refer to the same policies, and a pipeline is wired alike."""
    results = []
    for clock, stage in (("rounds", "update"), ("fused", "fused")):
        recipe = referring(clock=clock, gate=GateConfig(select="last"))
        open_and_run(tmp_path / clock, recipe)
        calls = stages(tmp_path / clock, stage)
        begun = {body["iteration"]: body["inputs"]["policy"] for body in reversed(calls)}
        assert len(set(begun.values())) == 2
        assert [body["inputs"]["reference"] for body in calls] == [begun[body["iteration"]] for body in calls]
        results.append((begun, calls[-1]["outputs"]["policy"]))
    assert results[0] == results[1]
    traced = [node for node in trace(referring(clock="rounds"), "iterate", 2).nodes if node.kind == "update"]
    assert [(task.inputs["reference"].node, task.inputs["reference"].port) for task in traced] == [
        *[("open", "policy")] * 2,
        *[("gate", "policy")] * 2,
    ]


def test_after_a_rollback_the_reference_is_the_policy_that_was_gone_back_to(tmp_path: Path) -> None:
    recipe = referring(clock="rounds", inner_steps=1, gate=GateConfig(rollback_margin=0.0))
    recipe = dataclasses.replace(
        recipe,
        update=dataclasses.replace(recipe.update, lr=0.5, warmup_steps=0),
        evaluate=dataclasses.replace(recipe.evaluate, tasks_per_arm=20),
        dataset_prep=dataclasses.replace(recipe.dataset_prep, pools=pools(val=20)),
    )
    open_and_run(tmp_path, recipe)
    gates = [e.body["decision"]["action"] for e in open_workspace(tmp_path).ledger.of("gate")]
    assert gates == ["continue", "rollback", "rollback"]
    base = stages(tmp_path, "dataset_prep")[0]["outputs"]["policy"]
    assert [body["inputs"]["reference"] for body in stages(tmp_path, "update")] == [base, base]


def test_the_recipe_says_which_policy_is_the_reference() -> None:
    assert "ref = the policy that began the iteration" in explain(referring())
    assert "ref = the policy that the evolution began with" in explain(
        dataclasses.replace(referring(), reference="initial")
    )
    assert "ref = the policy" not in explain(micro())
    with pytest.raises(ConfigError, match=r"only with update\.kl\.place=loss or reward"):
        resolve("sec", "tiny", None, None, ["reference=iteration", "update.kl.place=none"])


# --- other evolutions


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the text strategy of dataset_prep ask for sources."""
    monkeypatch.setattr(TextConfig, "reads", ("sources",), raising=False)


@pytest.fixture(scope="module")
def specialists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short evolution under either clock, each with a store of its own."""
    import torch

    torch.set_num_threads(1)
    folders = {clock: tmp_path_factory.mktemp(clock) for clock in ("rounds", "fused")}
    for clock, folder in folders.items():
        outcome = open_and_run(folder, micro(clock=clock, iterations=1))
        (folder / "champion").write_text(outcome.champion.policy.digest)
    return folders


def uri(folder: Path) -> str:
    return f"{folder}/store/evolutions/{EVOLUTION}"


@pytest.mark.usefixtures("reading")
def test_sources_are_pinned_when_an_evolution_opens(specialists: dict[str, Path], tmp_path: Path) -> None:
    recipe = micro(iterations=0, sources=tuple(map(uri, specialists.values())))
    open_and_run(tmp_path, recipe)
    workspace = open_workspace(tmp_path)
    opened = workspace.ledger.entries[0].body
    inputs = stages(tmp_path, "dataset_prep")[0]["inputs"]
    assert inputs == {f"sources.{number}": digest for number, digest in enumerate(opened["sources"])}
    for digest, folder in zip(opened["sources"], specialists.values(), strict=True):
        source, origin = Source(workspace.cas.get(digest), digest), open_workspace(folder)
        assert source.champion == (folder / "champion").read_text()
        assert workspace.cas.manifest(digest).type == "Source"
        lines = [json.loads(line) for line in (source.path / "ledger.jsonl").read_text().splitlines()]
        assert [line["digest"] for line in lines] == [entry.digest for entry in origin.ledger.entries]
        assert source.read_json("source.json")["head"] == origin.ledger.head
        tried = list(source.tried())
        assert len(tried) == len(stages(folder, "reward") + stages(folder, "fused")) > 0
        for rollouts, scores in tried:
            assert [row.rollout_id for row in rollouts.iter()] == [row.rollout_id for row in scores.iter()]
    head = workspace.ledger.head
    for folder in specialists.values():  # a pin is no longer looked up
        Ledger(open_workspace(folder).store, EVOLUTION).append("accept_code", {"code": "x"}, {"at": 1.0})
    open_and_run(tmp_path, recipe)
    assert open_workspace(tmp_path).ledger.head == head


@pytest.mark.usefixtures("reading")
def test_what_the_store_holds_already_is_not_copied(specialists: dict[str, Path], tmp_path: Path) -> None:
    store = specialists["rounds"] / "store"
    before = {path: path.stat().st_ino for path in (store / "blobs").rglob("*") if path.is_file()}
    recipe = micro(iterations=0, sources=(uri(specialists["rounds"]),))
    from instar.pipelines.lifecycle import open_evolution

    workspace = create_workspace(tmp_path, "generalist", str(store))
    open_evolution(workspace, recipe, 0)
    after = {path: path.stat().st_ino for path in (store / "blobs").rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    (digest,) = workspace.ledger.entries[0].body["sources"]
    own = {entry.sha256 for name, entry in workspace.cas.manifest(digest).files.items() if "tried" not in name}
    assert {path.name for path in after.keys() - before.keys()} == own


def forge(ledger: Path) -> str:
    """Change a number inside the first entry of a copy of a ledger."""
    (ledger / "ledger" / "00000000.json").write_bytes(
        (ledger / "ledger" / "00000000.json").read_bytes().replace(b'"seed":0', b'"seed":1')
    )
    return str(ledger)


@pytest.mark.usefixtures("reading")
def test_a_source_that_is_none_is_a_named_error(specialists: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(specialists["fused"] / "store", copy)
    young = create_workspace(tmp_path / "young", "young")
    young.ledger.append("open", {**dict(open_workspace(specialists["fused"]).ledger.entries[0].body)}, {"at": 1.0})
    wrong: dict[str, tuple[type[Exception], str]] = {
        f"{tmp_path}/nowhere/evolutions/x": (LedgerError, "no ledger"),
        f"{tmp_path}/young/store/evolutions/young": (LedgerError, "1 entries without a gate"),
        str(specialists["fused"]): (ConfigError, "STORE/evolutions/NAME"),
        f"{copy}/evolutions/../x": (ConfigError, "STORE/evolutions/NAME"),
        forge(copy / "evolutions" / EVOLUTION): (LedgerError, "expected digest"),
    }
    for number, (name, (kind, text)) in enumerate(wrong.items()):
        with pytest.raises(kind, match=text):
            open_and_run(tmp_path / f"run-{number}", micro(iterations=0, sources=(name,)))
        assert not open_workspace(tmp_path / f"run-{number}").ledger.entries
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.usefixtures("reading")
def test_sources_are_settings_like_any_other(tmp_path: Path) -> None:
    assert resolve("sec", "tiny", None, None, ['sources=["a/evolutions/x"]']).sources == ("a/evolutions/x",)
    (tmp_path / "more.toml").write_text('sources = ["a/evolutions/x", "s3://b/c/evolutions/y"]\n')
    recipe = resolve("sec", "tiny", None, tmp_path / "more.toml", [])
    assert recipe.sources == ("a/evolutions/x", "s3://b/c/evolutions/y")
    assert configs.from_dict(Recipe, configs.to_dict(recipe), where="test") == recipe


def kubeflow(recipe: Recipe, store: str, folder: Path) -> None:
    """Run every segment of an evolution from compiled packages."""
    given = {"store": store, "evolution": EVOLUTION}
    words = [f"--{name}={value}" for name, value in given.items()]
    assert control_command.main(["begin", *words, "--recipe", configs.dumps(recipe)]) == 0
    for segment, kind in enumerate(("begin", "iterate", "finish")):
        package = folder / f"{kind}.yaml"
        compile_graph(trace(recipe, kind), load("kind-dev"), IMAGES, package)  # type: ignore[arg-type]
        counts = {"segment": segment, "attempt": 0, "iteration": int(kind == "finish"), "step": 0}
        counts["step"] = counts["iteration"] * recipe.inner_steps
        run_program(ir.load(package), given | counts, folder / kind, f"run-{segment}")


def argo(recipe: Recipe, store: str, folder: Path) -> None:
    """Run the exported workflow."""
    write_workflow(recipe, load("kind-dev"), IMAGES, folder / "argo.yaml")
    workflow = yaml.safe_load((folder / "argo.yaml").read_text())
    Argo(workflow, {"store": store, "evolution": EVOLUTION}, folder / "outputs").run("evolution", {})


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize(
    "engine", [kubeflow, pytest.param(argo, marks=pytest.mark.slow)]
)  # argo: tests/e2e/test_argo.py
def test_settings_reach_the_tasks_of_a_pipeline(
    engine: Callable[[Recipe, str, Path], None],
    specialists: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sources and a reference that moves: the ledger of the tasks is that of one process."""
    monkeypatch.setenv("INSTAR_KFP_HOST", "")
    recipe = referring(clock="rounds", iterations=1, sources=tuple(map(uri, specialists.values())))
    open_and_run(tmp_path / "local", recipe)
    engine(recipe, str(tmp_path / "store"), tmp_path)
    local = [(e.kind, e.body) for e in open_workspace(tmp_path / "local").ledger.entries]
    made = [(e.kind, e.body) for e in Workspace(tmp_path / "w", EVOLUTION, str(tmp_path / "store")).ledger.entries]
    assert [kind for kind, _ in made] == [*(kind for kind, _ in local), "close"]
    assert made[:-1] == local
    assert list(next(body for kind, body in made if kind == "stage")["inputs"]) == ["sources.0", "sources.1"]
