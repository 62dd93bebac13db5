"""Number facts: right answers, one task per unordered pair, and no held-out fact anywhere in a training prompt. Two seconds."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest

from instar import seeds
from instar.components.dataset_prep import pools
from instar.components.dataset_prep.config import ArmConfig, PoolsConfig, TextConfig
from instar.components.dataset_prep.domains import DOMAINS, facts
from instar.components.dataset_prep.ladders import facts as ladder
from instar.components.dataset_prep.templates import SHOTS
from instar.components.reward.verifiers import Score, verify
from instar.errors import ConfigError, ContractError
from instar.pipelines.recipes.sec import small
from instar.rows import TaskRow

LINE = re.compile(r"(\d+)([+*])(\d+)=(\d*)")


def build(config: PoolsConfig, evolution: str = "test") -> list[TaskRow]:
    return pools.build_pools(config, lambda item: seeds.seed(evolution, 0, "dataset_prep", item))


def keys(text: str) -> list[tuple[str, int, int]]:
    """Return every fact a prompt shows, solved or asked, the smaller number first."""
    found = [(sign, int(a), int(b)) for a, sign, b, _ in LINE.findall(text)]
    return [(sign, min(a, b), max(a, b)) for sign, a, b in found]


@pytest.mark.parametrize(("times", "left", "right"), [(0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 2, 2), (1, 3, 2)])
def test_answers_and_digits(times: int, left: int, right: int) -> None:
    for index in range(300):
        item = facts.generate({"times": times, "left": left, "right": right}, 5, index)
        found = LINE.fullmatch(item.terse)
        assert found is not None
        a, sign, b, _ = found.groups()
        assert (len(a), len(b), sign) == (left, right, "*" if times else "+") and a[0] != "0" != b[0]
        assert item.reference["answer"] == str(int(a) * int(b) if times else int(a) + int(b))
        assert item.prompt_body == f"What is {a} {sign} {b}?"
        assert item == facts.generate({"times": times, "left": left, "right": right}, 5 + index, 0)


def test_both_orders_are_one_task_and_both_occur() -> None:
    items = [facts.generate({}, 0, i) for i in range(3000)]
    assert len({item.key for item in items}) == 45 and len({item.terse for item in items}) == 81
    by_key: dict[str, set[str]] = {}
    for item in items:
        by_key.setdefault(item.key, set()).add(item.reference["answer"])
    assert all(len(answers) == 1 for answers in by_key.values())
    assert facts.generate({"times": 1}, 0, 0).key != facts.generate({}, 0, 0).key


@pytest.mark.parametrize("params", [{"times": 2}, {"left": 0}, {"right": 7}, {"digits": 1}])
def test_impossible_parameters(params: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        facts.generate(params, 0, 0)


def test_the_ladder() -> None:
    arms = ladder((20, 8, 14), (500, 32, 64)).arms
    sizes = {arm.name: (arm.train, arm.val, arm.test, arm.ood) for arm in arms}
    assert sizes == {
        "add-1-1": (20, 8, 14, False),
        "times-1-1": (20, 8, 14, False),
        "add-2-1": (500, 32, 64, False),
        "add-2-2": (0, 0, 64, True),
    }


@pytest.mark.parametrize("evolution", ["sec-small-seed0", "sec-small-seed1", "another"])
def test_no_evaluation_item_of_the_recipe_is_in_training(evolution: str) -> None:
    """Neither asked nor shown solved, in neither order: over the whole recipe, by the numbers in the prompts themselves."""
    prep = small().dataset_prep
    assert isinstance(prep, TextConfig) and isinstance(prep.pools, PoolsConfig)
    rows = build(prep.pools, evolution)
    asked = {split: [keys(r.prompt)[-1] for r in rows if r.split == split] for split in ("train", "val", "id", "ood")}
    seen_in_training = {key for r in rows if r.split == "train" for key in keys(r.prompt)}
    everything = [key for split in asked.values() for key in split]
    assert len(everything) == len(set(everything)) == len(rows)  # no fact is asked twice, in whatever order or pool
    for split in ("val", "id", "ood"):
        assert asked[split] and not seen_in_training & set(asked[split])
    shown = {key for r in rows for key in keys(r.prompt)[:-1]}
    assert len(shown) == SHOTS["few_shot"] * len(prep.pools.arms) and not shown & set(everything)
    assert {r.arm for r in rows if r.split == "ood"} == {"add-2-2"} and not any(
        a > 9 and b > 9 for _, a, b in seen_in_training
    )


def test_few_shot_prompts() -> None:
    rows = build(ladder((10, 2, 2), (10, 2, 2)))
    for row in rows:
        lines = row.prompt.split("\n")
        solved = [LINE.fullmatch(line) for line in lines[:3]]
        assert len(lines) == 4 and lines[3].endswith("=") and row.form == "text"
        for found in solved:
            assert found is not None
            a, sign, b, answer = found.groups()
            assert int(answer) == (int(a) * int(b) if sign == "*" else int(a) + int(b))
        answer = json.loads(row.reference)["answer"]
        assert verify(row, f"{answer}\n1+1=2", "line") == Score(correct=1.0, format_ok=True)
        assert verify(row, f" {answer}", "line") == Score(correct=1.0, format_ok=True)
        assert verify(row, f"{answer}0\n{answer}", "line") == Score(correct=0.0, format_ok=True)
        assert verify(row, f"{answer}.0", "line") == Score(correct=0.0, format_ok=True)
    other = build(ladder((10, 2, 2), (10, 2, 2)), "other")
    shots = [{r.arm: r.prompt.rsplit("\n", 1)[0] for r in pool} for pool in (rows, other)]
    assert shots[0] == shots[1]  # the same lines are shown under every seed
    assert {r.prompt for r in rows} != {r.prompt for r in other}


def test_shown_items_leave_the_pools_smaller() -> None:
    """45 sums of one digit, three of them shown: 42 are left."""
    for size, template in ((45, "terse"), (42, "few_shot")):
        arm = ArmConfig(name="a", domain="facts", level=1, train=size - 10, val=5, test=5)
        rows = build(PoolsConfig(arms=(arm,), template=template))
        assert len({keys(r.prompt)[-1] for r in rows}) == size
        with pytest.raises(ContractError, match="a/train"):
            build(
                PoolsConfig(
                    arms=(ArmConfig(name="a", domain="facts", level=1, train=size - 9, val=5, test=5),),
                    template=template,
                )
            )


def test_every_combination_of_digits_has_its_own_task_keys() -> None:
    found: dict[str, tuple[int, int, int]] = {}
    for times, left, right in product((0, 1), (1, 2), (1, 2)):
        for index in range(200):
            item = DOMAINS["facts"].generate({"times": times, "left": left, "right": right}, 9, index)
            sizes = (times, min(left, right), max(left, right))
            assert found.setdefault(item.key, sizes) == sizes
