"""ARC-1D and arithmetic items from reasoning-gym. Six seconds, half of them its import."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from instar.components.dataset_prep.domains import arc1d, arithmetic
from instar.errors import ConfigError, ContractError

pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize("size", [10, 20, 30, 40])
def test_arc1d_rows_have_the_stated_length_and_number_of_examples(size: int) -> None:
    for index in range(60):
        item = arc1d.generate({"size": size, "examples": 3}, 2, index)
        rows = [
            [int(cell) for cell in row.split()]
            for row in re.findall(r"^[\d ]{8,}$", item.prompt_body.replace(" -> ", "\n"), re.M)
        ]
        assert len(rows) == 7  # three pairs and the question
        answer = [int(cell) for cell in item.reference["answer"].split()]
        assert {len(row) for row in [*rows, answer]} == {size}
        assert all(0 <= cell <= 9 for row in [*rows, answer] for cell in row)
        assert item.features["copy"] == (rows[-1] == answer)


RULES: dict[str, Callable[[list[int]], list[int]]] = {
    "change_to_five": lambda row: [5 if cell else 0 for cell in row],
    "gravity_right": lambda row: sorted(
        row, key=lambda cell: cell == 0
    ),  # the supplier's name; cells gather on the left
    "gravity_left": lambda row: sorted(row, key=lambda cell: cell != 0),
    "move_1pix_solid_wrapped_right": lambda row: [*row[-1:], *row[:-1]],
    "move_2pix_colorful_left": lambda row: [*row[2:], 0, 0],
}


def test_arc1d_examples_and_answer_follow_one_rule() -> None:
    checked = 0
    for index in range(1_000):
        item = arc1d.generate({"size": 10, "examples": 3}, 3, index)
        rule = RULES.get(item.features["rule"])
        if rule is None:
            continue
        *pairs, question = item.terse.removesuffix(">").split(";")
        whole = [*(pair.split(">") for pair in pairs), [question, item.reference["answer"].replace(" ", "")]]
        for left, right in whole:
            assert "".join(map(str, rule([int(c) for c in left]))) == right, item.features["rule"]
        checked += 1
    assert checked >= 30


def test_arc1d_is_a_function_of_seed_plus_index() -> None:
    assert arc1d.generate({"size": 12}, 40, 2) == arc1d.generate({"size": 12}, 42, 0)


@pytest.mark.parametrize("basic", [0, 1])
def test_arithmetic_answers_agree_with_python(basic: int) -> None:
    for index in range(200):
        item = arithmetic.generate({"terms": 4, "digits": 2, "basic": basic}, 6, index)
        assert eval(item.terse.removesuffix("="), {"__builtins__": {}}) == int(item.reference["answer"])


def test_a_wrong_answer_of_the_supplier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty:
        def __getitem__(self, index: int) -> dict[str, object]:
            return {"answer": "7", "metadata": {"expression": "4 - 1 - 7"}}

    monkeypatch.setattr(arithmetic, "dataset", lambda *_: Faulty())
    with pytest.raises(ContractError, match=r"4 - 1 - 7 = -4; found 7"):
        arithmetic.generate({}, 0, 0)


@pytest.mark.parametrize(
    ("module", "params"),
    [(arc1d, {"size": 7}), (arc1d, {"examples": 0}), (arithmetic, {"terms": 1}), (arithmetic, {"basic": 2})],
)
def test_impossible_parameters_are_refused(module: object, params: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        module.generate(params, 0, 0)  # type: ignore[attr-defined]
