"""Answer extraction: tables per style, and hostile texts in linear time. One second."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.components.reward.extract import STYLES, extract, locate
from instar.errors import ConfigError

CASES = [
    ("boxed", r"so \boxed{42}.", "42"),
    ("boxed", r"\boxed{1} then \boxed{ 2 }", "2"),
    ("boxed", r"\boxed{\boxed{3}}", "3"),
    ("boxed", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ("boxed", r"\boxed{a{b}c}", "a{b}c"),
    ("boxed", r"\boxed {7}", "7"),
    ("boxed", r"\boxed{x \} y}", r"x \} y"),
    ("boxed", r"\boxed{3} and then \boxed{4", "3"),
    ("boxed", r"} } \boxed{5}", "5"),
    ("boxed", r"{ \boxed{6}", "6"),
    ("boxed", r"\boxed{1 {2}", None),
    ("boxed", r"\boxed{}", None),
    ("boxed", "\\boxed{ \n }", None),
    ("boxed", r"boxed{3}", None),
    ("boxed", "the answer is 3", None),
    ("boxed", "", None),
    ("boxed", "\\boxed{a\nb}", "a\nb"),
    ("boxed", r"\boxed{7}, as asked in \boxed{}", "7"),
    ("boxed", r"\boxed{7}, in \boxed{ } or \boxed {}", "7"),
    ("boxed", r"\boxed{\boxed{}} then nothing", r"\boxed{}"),
    ("line", "3+4", "3+4"),
    ("line", "  3+4 \nrest", "3+4"),
    ("line", "3\r\nrest", "3"),
    ("line", "\n3", None),
    ("line", "   ", None),
    ("line", "", None),
    ("line", "a\u2028b", "a\u2028b"),
    ("tag", "<answer>yes</answer>", "yes"),
    ("tag", "<answer>a</answer> no, <answer> b </answer>", "b"),
    ("tag", "<answer><answer>c</answer>", "c"),
    ("tag", "<answer>a</answer></answer>", "a"),
    ("tag", "<answer>a</answer><answer>open", "a"),
    ("tag", "<answer></answer>", None),
    ("tag", "<answer>7</answer>, as asked in <answer> </answer>", "7"),
    ("tag", "</answer>a<answer>", None),
    ("tag", "<ANSWER>a</ANSWER>", None),
]


@pytest.mark.parametrize(("style", "text", "answer"), CASES, ids=[f"{s}-{t[:20]!r}" for s, t, _ in CASES])
def test_table(style: str, text: str, answer: str | None) -> None:
    assert extract(text, style) == answer


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 150_000, "{" * 10**6, "<answer>" * 125_000, "}" * 10**6, "a" * 10**6], ids=lambda t: t[:8]
)
@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_million_hostile_characters_take_linear_time(style: str, text: str) -> None:
    start = time.process_time()
    extract(text, style)
    assert time.process_time() - start < 3.0  # a quadratic scan would take hours


@given(st.text(alphabet="ab{}\\ boxed", max_size=40), st.text(alphabet="ab{}", min_size=1, max_size=10))
def test_a_closing_balanced_box_always_wins(prefix: str, inner: str) -> None:
    balanced = inner.replace("{", "").replace("}", "") or "x"
    assert extract(prefix.rstrip("\\") + "\\boxed{{" + balanced + "}}", "boxed") == "{" + balanced + "}"


@given(st.text(max_size=60))
def test_the_answer_is_a_stripped_part_of_the_text(text: str) -> None:
    for style in STYLES:
        answer = extract(text, style)
        assert answer is None or (answer in text and answer == answer.strip() != "")


@given(st.text(alphabet="ab{}\\ boxed<answer/>\n", max_size=60))
def test_the_answer_lies_where_it_is_located(text: str) -> None:
    for style in STYLES:
        place = locate(text, style)
        assert extract(text, style) == (None if place is None else text[place[0] : place[1]])


def test_an_unknown_style_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'boxed'"):
        extract("x", "box")
