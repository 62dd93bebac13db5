"""Plants pools in which an order is all that differs: no validation or test task is a training task of its domain. Five seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import seeds
from instar.components.dataset_prep.config import ArmConfig, PoolsConfig
from instar.components.dataset_prep.domains import DOMAINS
from instar.components.dataset_prep.domains.arithmetic import canonical
from instar.components.dataset_prep.pools import build_pools

MIRRORED = {"=": "=", "!": "!", "~": "~", "<": ">", ">": "<"}


def clue(text: str) -> Hashable:
    """Return a clue of a zebra puzzle so that saying it the other way round gives the same."""
    a, sign, b = re.split(r"([=!~<>+@])", text)
    return min((a, sign, b), (b, MIRRORED[sign], a)) if sign in MIRRORED else (a, sign, b)


def puzzle(terse: str) -> Hashable:
    *groups, clues = terse.rstrip("?").split("|")
    return frozenset(frozenset(g.split(",")) for g in groups), frozenset(map(clue, clues.split(";")))


def terms(terse: str) -> Hashable:
    return tuple(sorted(re.findall(r"[+-]\d+", "+" + terse)))


def sides(terse: str) -> Hashable:
    left, sign, right = re.split(r"([+*])", terse.rstrip("="))
    return sign, frozenset((left, right))


def game(terse: str) -> Hashable:
    numbers, target = terse.rstrip(":").split(">")
    return tuple(sorted(numbers.split(","))), target


def grid(terse: str) -> Hashable:
    *examples, question = terse.split(";")
    return frozenset(examples), question


SAME: dict[str, Callable[[str], Hashable]] = {
    "arithmetic": terms,
    "facts": sides,
    "countdown": game,
    "zebra": puzzle,
    "arc1d": grid,
    "sorting": str,
    "ones": str,
}
"""What tells two tasks of a domain apart, read from the terse prompt by code of its own."""
ARMS = [
    ("arithmetic", {"terms": 2, "digits": 1}, 90),
    ("arithmetic", {"terms": 3, "digits": 1}, 300),
    ("facts", {"left": 1, "right": 1}, 25),
    ("countdown", {"numbers": 2, "max_value": 6, "max_target": 12}, 30),
    ("zebra", {"people": 2, "characteristics": 2}, 80),
    ("arc1d", {"size": 8, "examples": 1}, 80),
    ("sorting", {"length": 2}, 60),
    ("ones", {"length": 6}, 30),
]


@pytest.mark.parametrize(("domain", "params", "train"), ARMS, ids=[f"{a[0]}-{a[2]}" for a in ARMS])
def test_no_task_is_in_two_pools(domain: str, params: dict[str, int], train: int) -> None:
    arm = ArmConfig(name="a", domain=domain, level=1.0, params=params, train=train, val=8, test=8)
    rows = build_pools(
        PoolsConfig(arms=(arm,), template="terse"), lambda item: seeds.seed("leaks", 0, "dataset_prep", item)
    )
    assert len({SAME[domain](row.prompt) for row in rows}) == len(rows) == train + 16


def test_every_domain_is_looked_at() -> None:
    assert set(SAME) == {arm[0] for arm in ARMS} == set(DOMAINS)


TREES = st.recursive(st.integers(1, 99).map(str), lambda t: st.tuples(t, st.sampled_from("+-*/"), t), max_leaves=6)


def write(tree: object, shuffled: Random | None = None) -> str:
    """Return a tree with full parentheses; with `shuffled`, operands of + and * swapped at random."""
    if isinstance(tree, str):
        return tree
    assert isinstance(tree, tuple)
    left, sign, right = tree
    if shuffled is not None and sign in "+*" and shuffled.random() < 0.5:
        left, right = right, left
    return f"({write(left, shuffled)}{sign}{write(right, shuffled)})"


@given(TREES, st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_swapped_operands_make_no_new_expression(tree: object, seed: int) -> None:
    assert canonical(write(tree)) == canonical(write(tree, Random(seed)))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 + 4 - 2", "4 - 2 + 3", True),
        ("3 + 4 - 2", "3 - (2 - 4)", True),
        ("2 * 3 / 4", "3 / 4 * 2", True),
        ("12 / (3 / 4)", "4 * 12 / 3", True),
        ("(1 + 2) * 3", "3 * (2 + 1)", True),
        ("-3 + 5", "5 - 3", True),
        ("3 - 4", "4 - 3", False),
        ("3 / 4", "4 / 3", False),
        ("1 + 2 * 3", "(1 + 2) * 3", False),
        ("12 + 3", "1 + 23", False),
        ("2 * 2", "2 + 2", False),
        ("1 + 1 + 2", "1 + 2", False),
    ],
)
def test_what_is_the_same_sum(one: str, other: str, same: bool) -> None:
    assert (canonical(one) == canonical(other)) is same
