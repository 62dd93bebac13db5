"""The expression parser against Python's own arithmetic, and what it must refuse. Three seconds."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.reward.expression import ExpressionError, evaluate, integers, tokenise

Tree = int | tuple[str, "Tree"] | tuple[str, "Tree", "Tree"]  # type: ignore[misc]


def write(tree: object, tight: bool = False) -> str:
    """Write a tree with full parentheses."""
    if isinstance(tree, int):
        return str(tree)
    assert isinstance(tree, tuple)
    if len(tree) == 2:
        return f"(-{write(tree[1])})"
    return f"({write(tree[1])}{'' if tight else ' '}{tree[0]}{'' if tight else ' '}{write(tree[2])})"


def value(tree: object) -> Fraction:
    """Evaluate a tree with Fraction arithmetic. Raises ZeroDivisionError."""
    if isinstance(tree, int):
        return Fraction(tree)
    assert isinstance(tree, tuple)
    if len(tree) == 2:
        return -value(tree[1])
    a, b = value(tree[1]), value(tree[2])
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[tree[0]]()


leaves = st.integers(0, 120)
trees = st.recursive(
    leaves, lambda t: st.tuples(st.just("-"), t) | st.tuples(st.sampled_from("+-*/"), t, t), max_leaves=12
)


@given(trees, st.booleans())
@settings(max_examples=400, deadline=None)
def test_agrees_with_fraction_arithmetic_on_trees(tree: object, tight: bool) -> None:
    try:
        expected = value(tree)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(write(tree, tight))
    else:
        assert evaluate(write(tree, tight)) == expected


@given(st.lists(st.integers(1, 99), min_size=1, max_size=8), st.lists(st.sampled_from("+-*/"), min_size=7, max_size=7))
@settings(max_examples=300, deadline=None)
def test_precedence_and_left_association_are_python_s(numbers: list[int], operators: list[str]) -> None:
    text = "".join(f"{n} {o} " for n, o in zip(numbers, operators, strict=False)).rstrip("+-*/ ")
    spelled = "".join(f"Fraction({n}){o}" for n, o in zip(numbers, operators, strict=False)).rstrip("+-*/")
    if len(numbers) == 8:
        text, spelled = f"{text}{operators[6]}{numbers[7]}", f"{spelled}{operators[6]}Fraction({numbers[7]})"
    assert evaluate(text) == eval(spelled, {"Fraction": Fraction})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8-3-2", 3),
        ("8/4/2", 1),
        ("1/3", Fraction(1, 3)),
        ("-3+5", 2),
        ("--3", 3),
        ("2*-3", -6),
        ("007", 7),
        (r"3 \times 4 \div 2", 6),
        ("3×4÷2−1", 5),
        (r"\left(1+2\right)\cdot 3", 9),
        ("3\u22c54\u22152\u20131\u22172", 4),
        ("\uff083\uff0b\u0664\uff09\uff0a2", 14),
        ("\t(1)\n", 1),
    ],
)
def test_hand_computed(text: str, expected: Fraction) -> None:
    assert evaluate(text) == expected


BAD = [
    "",
    " ",
    "()",
    "(",
    ")",
    "(1",
    "1)",
    "1 2",
    "1+",
    "*1",
    "2(3)",
    "2**3",
    "7//2",
    "2^3",
    "1.5",
    "1e9",
    "0x10",
    "1_000",
    "1=1",
    "x",
    "__import__('os').system('true')",
    "().__class__",
    "[1]",
    "1,2",
    "1;2",
    "1/0",
    "1/(2-2)",
    "²",
    "1\u20142",
    "3.",
    r"\timesx",
    "9" * 19,
    "9**9**9**9",
    "(" * 51 + "1" + ")" * 51,
    "1+" * 1_500 + "1",
]


@pytest.mark.parametrize("text", BAD, ids=lambda t: repr(t[:24]))
def test_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        evaluate(text)


@given(st.text(alphabet="0123456789+-*/() .\\e_", max_size=60))
@settings(max_examples=400, deadline=None)
def test_any_text_gives_a_fraction_or_the_named_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert isinstance(evaluate(text), Fraction)


def test_the_longest_accepted_expressions_are_quick() -> None:
    start = time.process_time()
    for text in ("9" * 18 + "*" + "*".join(["9" * 18] * 100), "/".join(["97"] * 600), "-" * 1_999 + "1"):
        evaluate(text)
    assert time.process_time() - start < 1.0


def test_integers_are_listed_in_order_and_without_sign() -> None:
    assert integers(tokenise("-3*(12-3)")) == [3, 12, 3]
