"""What a recipe's loop carries between two runs of a cluster: nothing that a stage reads gets lost, and nothing else travels."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import contract
from instar.artifact import Artifact, Evaluation, Policy, Rollouts, Scores, Source
from instar.components.catalog import CURRICULUM, DATASET_PREP, EVALUATE, REWARD, UPDATE
from instar.components.curriculum.config import UniformConfig
from instar.components.dataset_prep.config import TextConfig
from instar.contract import ON_REQUEST, ports
from instar.errors import ConfigError
from instar.pipelines.chain.pointers import EVALUATIONS, handed_on, pointers, pointers_of, position_of
from instar.pipelines.evolution import Position, stages
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import METHODS, build
from instar.pipelines.trace import MAX_NODES, MAX_TEXT, Graph, check_size, config_text, trace
from instar.state import State, of_lifetime, reads, writes

ALL = [(name, scale) for name, method in METHODS.items() for scale in method.scales]
WITHIN_A_PASS = {"batch", "rollouts", "scores"}
"""Made anew in every pass before anything of these recipes reads them."""
KINDS = ports(State)


def read_by(recipe: Recipe) -> set[str]:
    """Return the entries that any stage of the recipe reads."""
    loop = [*stages(recipe.inner()), (EVALUATE, recipe.evaluate), (EVALUATE, recipe.test)]
    return {name for stage, config in loop for name in reads(stage, config)}


def written_by(recipe: Recipe) -> set[str]:
    return {name for stage, config in stages(recipe.inner()) for name in writes(stage, config)}


def artifacts(names: list[str], draw: st.DrawFn) -> dict[str, Any]:
    """Return an artifact of some digest for every name; an entry that may be none is sometimes none."""
    digests = st.integers(0, 2**32).map(lambda n: f"sha256:{n:064x}")
    out: dict[str, Any] = {}
    for name in names:
        kind, required = KINDS[name]
        digest = draw(digests if required else st.none() | digests)
        out[name] = None if digest is None else kind(None, digest)
    return out


@st.composite
def positions(draw: st.DrawFn, recipe: Recipe) -> Position:
    """Draw where an evolution of `recipe` may stand: an entry that none of its stages writes is none."""
    there = {*of_lifetime("prepared", "policy"), *written_by(recipe)}
    state = State(**artifacts([name for name in KINDS if name in there], draw))
    before = State(**artifacts([name for name in KINDS if name in there], draw))
    tests: dict[str, Any] = {name: Evaluation(None, f"sha256:{draw(st.integers(0, 99)):064x}") for name in EVALUATIONS}
    return Position(iteration=3, state=state, champion=before.champion(), **tests)


def digests(entries: dict[str, Artifact | None]) -> dict[str, str]:
    return {name: artifact.digest if artifact else "" for name, artifact in entries.items()}


@pytest.mark.parametrize(("name", "scale"), ALL)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_position_comes_through_the_pointers_of_its_recipe(name: str, scale: Any, data: st.DataObject) -> None:
    recipe = build(name, scale)
    before = data.draw(positions(recipe))
    declared = pointers(recipe)
    after = position_of(contract.bind(declared, pointers_of(before, declared), "test"), 3)
    read = read_by(recipe) - WITHIN_A_PASS
    assert {"tasks", "policy"} <= read
    assert digests({n: getattr(after.state, n) for n in read}) == digests({n: getattr(before.state, n) for n in read})
    assert digests(dict(after.champion.entries)) == digests(dict(before.champion.entries))
    assert [getattr(after, n).digest for n in EVALUATIONS] == [getattr(before, n).digest for n in EVALUATIONS]


def opened(graph: Graph) -> set[str]:
    """Return the ports of `open` that the tasks of a graph use."""
    return {ref.port for task in graph.nodes for ref in task.inputs.values() if ref.node == "open"}


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_open_hands_on_what_the_stages_name_and_nothing_else(name: str, scale: Any) -> None:
    recipe = build(name, scale)
    graphs = [trace(recipe, kind) for kind in ("iterate", "finish")]
    handed = set(ports(handed_on(recipe, "iterate")))
    entries = handed - {"base_test", "champion_evaluation"} - {f"champion_{n}" for n in of_lifetime("policy")}
    assert entries == (read_by(recipe) - WITHIN_A_PASS) & {*of_lifetime("prepared", "policy"), *written_by(recipe)}
    assert ("generated" in entries) == (recipe.curriculum.generated is not None)
    used = {*opened(graphs[0]), *opened(graphs[1])}
    assert used <= handed and handed - used <= {f"champion_{n}" for n in of_lifetime("policy")}
    assert not ports(handed_on(recipe, "begin"))


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_a_segment_is_small_enough_for_a_cluster(name: str, scale: Any) -> None:
    for kind in ("begin", "iterate", "finish"):
        graph = trace(build(name, scale), kind)
        check_size(graph)
        assert len(graph.nodes) <= MAX_NODES
        assert all(len(config_text(task)) <= MAX_TEXT for task in graph.nodes if task.stage is not None)


def test_a_curriculum_gets_the_last_step_where_it_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(build("sec", "tiny"), clock="rounds", inner_steps=2)
    last = ("batch", "rollouts", "scores")
    assert not set(last) & set(reads(CURRICULUM, recipe.curriculum))
    monkeypatch.setattr(type(recipe.curriculum), "reads", last, raising=False)
    first, second = (t for t in trace(recipe, "iterate").nodes if t.kind == "curriculum")
    assert {name: (first.inputs[name].node, first.inputs[name].port) for name in last} == {n: ("open", n) for n in last}
    assert [second.inputs[name].node for name in last] == ["curriculum", "rollout", "reward"]
    fused = trace(dataclasses.replace(recipe, clock="fused"), "iterate")
    assert {"batch", "rollouts", "scores"} <= set(next(t for t in fused.nodes if t.kind == "fused").inputs)


@pytest.mark.parametrize("stage", [CURRICULUM, REWARD, UPDATE], ids=lambda stage: stage.name)
def test_curriculum_reward_and_update_may_make_tasks(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages behind the one that makes them get them; one that is not asked to make any keeps what there is."""
    recipe = dataclasses.replace(build("sec", "tiny"), clock="rounds", inner_steps=2)
    assert "generated" not in pointers(recipe).__dataclass_fields__
    monkeypatch.setattr(type(getattr(recipe, stage.name)), "writes", ("generated",), raising=False)
    tasks = [task for task in trace(recipe, "iterate").nodes if task.stage is not None]
    makers = {"curriculum": ["curriculum", "curriculum", "curriculum-2"], "reward": ["open", "open", "reward"]}
    expected = [*makers.get(stage.name, ["open", "open", "update"])]
    readers = [next(t for t in tasks if t.name == name) for name in ("rollout", "reward", "rollout-2")]
    assert [reader.inputs["generated"].node for reader in readers] == expected


def sources(monkeypatch: pytest.MonkeyPatch, *uris: str) -> Recipe:
    """Return a recipe whose dataset_prep reads other evolutions."""
    monkeypatch.setattr(TextConfig, "reads", ("sources",), raising=False)
    return dataclasses.replace(build("sec", "tiny"), sources=uris)


def test_open_hands_the_sources_to_dataset_prep(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = sources(monkeypatch, "a/evolutions/x", "b/evolutions/y")
    prepared = next(task for task in trace(recipe, "begin").nodes if task.stage is DATASET_PREP)
    assert {name: (ref.node, ref.port) for name, ref in prepared.inputs.items()} == {
        "sources.0": ("open", "sources_0"),
        "sources.1": ("open", "sources_1"),
    }
    assert [kind for kind, _ in ports(handed_on(recipe, "begin")).values()] == [Source, Source]
    assert not any("sources" in name for name in ports(handed_on(recipe, "iterate")))
    alone = trace(sources(monkeypatch), "begin").nodes[1]
    assert alone.stage is DATASET_PREP and not alone.inputs and alone.after == ("open",)


def test_sources_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not learn from other evolutions; found 1, first a/evolutions/x"):
        dataclasses.replace(build("sec", "tiny"), sources=("a/evolutions/x",))


def test_ports_on_request() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Ports:
        policy: Policy
        rollouts: Annotated[Rollouts | None, ON_REQUEST] = None
        parts: Annotated[tuple[Scores, ...], ON_REQUEST] = ()

    assert contract.on_request(Ports) == {"rollouts", "parts"}
    assert list(contract.requested(Ports, ())) == ["policy"]
    assert contract.requested(Ports, ("parts",)) == {"policy": (Policy, True), "parts": (Scores, False)}
    assert contract.member_name(Ports, "parts_12") == "parts.12" and contract.flat_name("parts.12") == "parts_12"
    assert contract.member_name(Ports, "rollouts_1") == "rollouts_1"
    assert not reads(CURRICULUM, UniformConfig(prompts=1, group_size=1)).count("rollouts")
