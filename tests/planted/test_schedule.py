"""Row 31, a learning-rate schedule that does not fit its run: steps at rate 0, or a warm-up that never ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from instar.cli.explain import explain
from instar.cli.resolve import resolve
from instar.components.update.schedule import outlook, planned_steps
from instar.errors import ConfigError
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.workspace import create_workspace

SEC = ["iterations=4", "inner_steps=3"]
LINEAR = [*SEC, "update.schedule=linear"]
MAMBA = ["iterations=2", "curriculum.prompts=640", "update.batch=60"]  # 11 steps of 60 windows in each iteration


def made(name: str, *sets: str) -> Recipe:
    return resolve(name, "tiny", None, None, sets)


@pytest.mark.parametrize(
    ("name", "sets", "steps"),
    [
        ("sec", SEC, 12),
        ("sec", [*SEC, "update.minibatches=4", "update.epochs=2"], 96),
        ("decision_mamba", MAMBA, 22),
    ],
)
def test_the_steps_of_a_run_are_known_from_its_recipe(name: str, sets: list[str], steps: int) -> None:
    assert planned_steps(made(name, *sets)) == steps


@pytest.mark.parametrize(
    ("name", "sets", "steps"),
    [
        ("sec", [*LINEAR, "update.warmup_steps=0"], 12),
        ("sec", [*LINEAR, "update.minibatches=4", "update.epochs=2"], 96),
        ("decision_mamba", [*MAMBA, "update.schedule=cosine", "update.warmup_steps=3"], 22),
    ],
)
def test_a_schedule_that_ends_before_the_run_is_refused(name: str, sets: list[str], steps: int) -> None:
    with pytest.raises(ConfigError) as caught:
        made(name, *sets, f"update.total_steps={steps - 1}")
    error = caught.value
    assert error.where == "recipe.update.total_steps" and str(steps) in error.expected
    assert error.found == f"{steps - 1}: the learning rate is 0 in the 1 steps after it"
    assert f"update.total_steps={steps}" in error.action
    assert outlook(made(name, *sets, f"update.total_steps={steps}")) == ""


def test_a_file_is_refused_like_an_assignment(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("iterations = 4\ninner_steps = 3\n[update]\nschedule = 'linear'\ntotal_steps = 6\n")
    with pytest.raises(ConfigError, match=r"update.total_steps >= 12"):
        resolve("sec", "tiny", None, file, [])


def test_a_schedule_that_ends_after_the_run_is_said() -> None:
    """Linear to 0 over 20 steps after 5 of warm-up: step 12 of 12 has (20 - 11) / 15 = 0.6 of the rate."""
    recipe = made("sec", *LINEAR, "update.total_steps=20")
    said = "schedule reaches 0 at step 20, after this run: the last of at most 12 optimiser steps has 0.6 of update.lr"
    assert said in outlook(recipe) and said in " ".join(explain(recipe).split())


@pytest.mark.parametrize(
    ("name", "sets", "planned"), [("sec", ["iterations=1", "inner_steps=2"], 2), ("decision_mamba", MAMBA, 22)]
)
def test_a_warm_up_longer_than_the_run_is_said_and_refused_where_it_is_given(
    name: str, sets: list[str], planned: int
) -> None:
    """The recipe's own warm-up stays when a trial run is cut short; one that is asked for has to end."""
    recipe = made(name, *sets)
    assert f"does not end in this run: the last of at most {planned} optimiser steps" in outlook(recipe)
    assert "does not end in this run" in " ".join(explain(recipe).split())
    with pytest.raises(ConfigError) as caught:
        made(name, *sets, f"update.warmup_steps={planned + 1}")
    assert caught.value.where.endswith("update.warmup_steps") and f"<= {planned}," in caught.value.expected
    assert outlook(made(name, *sets, f"update.warmup_steps={planned}")) == ""


def test_an_evolution_is_not_made_longer_than_its_schedule(tmp_path: Path) -> None:
    """More iterations in the same directory extend a run, as far as the schedule goes that its first steps had."""
    recipe = made("sec", *LINEAR, "update.total_steps=20")
    workspace = create_workspace(tmp_path, "short", None)
    open_evolution(workspace, recipe, seed=0)
    open_evolution(workspace, dataclasses.replace(recipe, iterations=5), seed=0)
    assert workspace.ledger.recipe["iterations"] == 5
    with pytest.raises(ConfigError, match=r"update.total_steps >= 21"):
        dataclasses.replace(recipe, iterations=7)


def test_recipes_end_with_the_rate_they_name() -> None:
    assert [outlook(build(*pair)) for pair in (("sec", "tiny"), ("spark", "tiny"), ("decision_mamba", "tiny"))] == [
        ""
    ] * 3
