"""SEC at the tiny scale really learns: thirty updates beat the base on held-out tasks, paired, with the interval above zero.

At the scale `small` the recipe is checked here and run on a model of its own; what it learns is in docs/recipes/sec.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from instar.artifact import Evaluation
from instar.components.dataset_prep.charlm import CharModelConfig
from instar.components.dataset_prep.config import FromScratch
from instar.components.dataset_prep.warmstart import WarmStartConfig
from instar.pipelines.evolution import evolve
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.pipelines.recipes.sec import small
from instar.workspace import create_workspace


@pytest.mark.slow  # the loop of the recipe runs below, and test_against_trl.py has the gradient
def test_thirty_updates_beat_the_base(tmp_path: Path) -> None:
    recipe = dataclasses.replace(build("sec", "tiny"), iterations=3)
    workspace = create_workspace(tmp_path, "sec-tiny-test")
    outcome = evolve(LocalRunner(workspace, threads=recipe.threads), recipe)
    tested = Evaluation(workspace.cas.get(outcome.champion_test.digest)).read_json("summary.json")["splits"]["id"]
    assert tested["comparison"]["verdict"] == "better"
    assert tested["comparison"]["low"] > 0.03
    base = Evaluation(workspace.cas.get(outcome.base_test.digest)).read_json("summary.json")["splits"]["id"]["arms"]
    next_level = "sort-06"  # one beyond what the base solves now and then; the curriculum goes there first
    assert tested["arms"][next_level]["score"] > base[next_level]["score"] + 0.2


def test_small_reads_answers_as_it_trains_them_and_tests_the_held_out_level_first() -> None:
    recipe = small()
    assert isinstance(recipe, Recipe) and recipe.scale == "small"
    protocols = [(c.style, c.stop, c.max_new_tokens) for c in (recipe.evaluate, recipe.test)]  # type: ignore[union-attr]
    rollout = (recipe.reward.style, recipe.rollout.stop, recipe.rollout.max_new_tokens)  # type: ignore[union-attr]
    assert protocols == [rollout, rollout] == [("line", ("\n",), 6)] * 2
    assert recipe.test.splits == ("ood", "id") and recipe.evaluate.splits == ("val",)
    assert recipe.iterations * recipe.inner_steps == 24
    assert (recipe.curriculum.prompts, recipe.curriculum.group_size) == (8, 8)
    assert (recipe.update.lr, recipe.update.dtype) == (1e-5, "bfloat16")  # type: ignore[union-attr]


def test_small_runs_with_a_model_that_can_add_a_little(tmp_path: Path) -> None:
    """The recipe's own loop, pools, prompts and stop string; a character model stands in for the pretrained one."""
    whole = small()
    beginner = FromScratch(
        model=CharModelConfig(alphabet="0123456789=+*\n", hidden=32, layers=2, heads=2, intermediate=64),
        warm_start=WarmStartConfig(arms=("add-1-1", "add-2-1"), steps=150, batch=64),
    )
    prep = dataclasses.replace(whole.dataset_prep, initial=beginner)  # type: ignore[arg-type]
    recipe = dataclasses.replace(whole, dataset_prep=prep, iterations=1, inner_steps=3, threads=1)
    workspace = create_workspace(tmp_path, "sec-small-test")
    outcome = evolve(LocalRunner(workspace, threads=1), recipe)
    splits = Evaluation(workspace.cas.get(outcome.champion_test.digest)).read_json("summary.json")["splits"]
    assert set(splits) == {"ood", "id"}
    assert set(splits["ood"]["arms"]) == {"add-2-2"}  # a level that was never trained on
    assert set(splits["id"]["arms"]) == {"add-1-1", "add-2-1", "times-1-1"}
