"""Benchmarks run for an hour and more: what they compare is built here, so that a refused setting is found before that."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_every_curriculum_is_a_recipe(load: Any) -> None:
    curricula = load("curricula")
    found = {name: curricula.recipe_of(name, 1e-4).curriculum for name in curricula.STRATEGIES}
    assert len({repr(curriculum) for curriculum in found.values()}) == len(found)


@pytest.mark.parametrize("rows", ["short", "long"])
def test_every_arm_of_spark_makes_the_same_number_of_updates(load: Any, rows: str) -> None:
    claims = load("spark_claims")
    recipes = [claims.recipe_of(arm, 0, rows) for arm in claims.ARMS]
    assert {recipe.iterations * recipe.inner_steps for recipe in recipes} == {300}
    assert [recipe.reward.recycle is None for recipe in recipes] == [False, False, True, True]
    assert [sorted(set(recipe.update.arm_weights.values())) for recipe in recipes] == [[], [0.3], [], []]
    assert [recipe.curriculum.prompts for recipe in recipes] == [48, 48, 48, 80]


def test_every_arm_of_decision_mamba_is_a_recipe(load: Any) -> None:
    claims = load("offline_claims")
    for changes, arms in claims.conditions("data/hopper").values():
        found = [claims.recipe_of(arm, changes) for arm in arms]
        assert len(set(map(repr, found))) == len(arms)
