"""Countdown items: constraints, solvability, determinism, one golden item. Two seconds."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.dataset_prep.domains import countdown
from instar.errors import ConfigError


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_every_stored_solution_reaches_the_target_with_exactly_the_numbers(count: int) -> None:
    for index in range(2_000):
        reference = countdown.generate({"numbers": count}, 11, index).reference
        used = sorted(map(int, re.findall(r"\d+", reference["answer"])))
        assert used == sorted(reference["numbers"])
        assert len(used) == count and all(1 <= n <= 100 for n in used)
        assert 1 <= reference["target"] <= 1000
        value = eval(reference["answer"], {"__builtins__": {}})
        assert value == reference["target"], reference


def test_parameters_bound_values_and_targets() -> None:
    params = {"numbers": 2, "min_value": 3, "max_value": 9, "min_target": 10, "max_target": 12}
    for index in range(500):
        reference = countdown.generate(params, 5, index).reference
        assert all(3 <= n <= 9 for n in reference["numbers"]) and 10 <= reference["target"] <= 12


def test_all_four_operators_occur_and_the_answer_order_is_not_given_away() -> None:
    items = [countdown.generate({"numbers": 4}, 1, i) for i in range(500)]
    assert set("".join(item.features["operators"] for item in items)) == set("+-*/")
    in_order = sum(
        re.findall(r"\d+", item.reference["answer"]) == [str(n) for n in item.reference["numbers"]] for item in items
    )
    assert in_order < 60  # a shuffle of four leaves 1 in 24 in order


@given(st.integers(0, 2**62 - 1), st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=200, deadline=None)
def test_an_item_is_named_by_seed_plus_index(seed: int, index: int, count: int) -> None:
    params = {"numbers": count}
    assert countdown.generate(params, seed, index) == countdown.generate(params, seed, index)
    assert countdown.generate(params, seed, index) == countdown.generate(params, seed + index, 0)


def test_the_key_ignores_the_order_of_the_numbers() -> None:
    item = countdown.generate({"numbers": 3}, 77, 1)
    assert item.key == f"{sorted(item.reference['numbers'])}>{item.reference['target']}"


def test_golden_item() -> None:
    item = countdown.generate({"numbers": 3}, 77, 1)
    assert item.terse == "93,82,10>727:"
    assert item.reference == {"numbers": [93, 82, 10], "target": 727, "answer": "82*10-93"}
    assert item.prompt_body.startswith(
        "Combine the numbers 93, 82 and 10 into an arithmetic expression whose value is 727."
    )


@pytest.mark.parametrize(
    "params", [{"numbers": 1}, {"min_value": 0}, {"min_value": 9, "max_value": 3}, {"min_target": 5, "max_target": 4}]
)
def test_impossible_parameters_are_refused(params: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        countdown.generate(params, 0, 0)


def test_targets_out_of_reach_are_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(ConfigError, match="no item in"):
        countdown.generate({"numbers": 2, "max_value": 2, "min_target": 900, "max_target": 1000}, 0, 0)


def test_an_unknown_parameter_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'numbers'"):
        countdown.generate({"number": 3}, 0, 0)
