"""An advantage and a choice of groups of the user's: the same numbers as instar's own, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
from instar.components.sandbox.config import UserCode
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.policy_gradient import improve
from instar.components.update.presets import preset
from instar.components.update.stage import Ins, Outs
from instar.components.update.terms import Filter
from instar.errors import ConfigError, ContractError
from support.brought import SHORT, brought
from unit.update.world import World, make_world, weights

CODE = """
def centred(rewards, groups):
    means = {}
    for group in set(groups):
        mine = [r for r, g in zip(rewards, groups) if g == group]
        means[group] = sum(mine) / len(mine)
    return [r - means[g] for r, g in zip(rewards, groups)]


def mixed(correct, groups):
    return [len({c for c, g in zip(correct, groups) if g == group}) > 1 for group in range(max(groups) + 1)]


def short(rewards):
    return rewards[1:]


def infinite(rewards):
    return [float("inf")] * len(rewards)


def words(groups):
    return ["yes"] * (max(groups) + 1)


def other(rewards, prices):
    return rewards


def broken(rewards):
    return rewards[10_000]
"""


def code(name: str) -> UserCode:
    return UserCode(entry=f"own.py:{name}", sandbox=SHORT)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    world.scored(lambda row: float(sum(row.token_ids) % 3))
    return world


def run(world: World, config: PolicyGradientConfig) -> tuple[Outs, dict[str, float]]:
    """Run the update with the user's code beside the other inputs."""
    world.runs += 1
    folder = world.root / f"own{world.runs}"
    tables = {
        "batch": Batch(folder / "batch"),
        "rollouts": Rollouts(folder / "rollouts"),
        "scores": Scores(folder / "scores"),
    }
    for name, table in tables.items():
        table.path.mkdir(parents=True)
        table.write(getattr(world, name))
    outs = Outs(
        policy=Policy(folder / "policy"), trainer=TrainerState(folder / "trainer"), stats=ArmStats(folder / "stats")
    )
    for out in (outs.policy, outs.trainer, outs.stats):
        out.path.mkdir()
    bundle = brought(world.root / "code", CODE, "own.py")
    ins = Ins(policy=world.policy, trainer=None, reference=None, update_code=bundle, **tables)  # type: ignore[arg-type]
    return outs, improve(ins, outs, config, world.context())


def test_the_users_advantage_trains_as_instars_own(world: World) -> None:
    own = preset("dr_grpo", lr=1e-2, max_length=6)
    theirs = dataclasses.replace(own, advantage=code("centred"))
    expected, got = run(world, own), run(world, theirs)
    assert got[1]["loss"] == pytest.approx(expected[1]["loss"])
    for a, b in zip(weights(expected[0].policy), weights(got[0].policy), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_the_users_filter_takes_the_groups_that_instars_own_takes(world: World) -> None:
    own = preset("sec", lr=1e-2)
    expected = run(world, dataclasses.replace(own, filter=Filter(kind="zero_variance")))[0].stats.read()
    got = run(world, dataclasses.replace(own, filter=Filter(function=code("mixed"))))[0].stats.read()
    assert [row.num_kept for row in got] == [row.num_kept for row in expected]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("short", ContractError, "16 finite numbers"),
        ("infinite", ContractError, "16 finite numbers"),
        ("broken", ContractError, "IndexError"),
        ("other", ConfigError, "prices"),
    ],
)
def test_what_the_advantage_returns_is_checked(world: World, name: str, error: type[Exception], text: str) -> None:
    config = dataclasses.replace(preset("sec"), advantage=code(name))
    with pytest.raises(error, match=text):
        run(world, config)


def test_a_choice_that_is_no_choice_is_refused(world: World) -> None:
    with pytest.raises(ContractError, match="true or false"):
        run(world, dataclasses.replace(preset("sec"), filter=Filter(function=code("words"))))


@pytest.mark.parametrize("changes", [{"baseline": "critic", "scale": "none"}])
def test_an_advantage_beside_a_critic_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="takes the place"):
        dataclasses.replace(preset("sec"), **changes, advantage=code("centred"))
