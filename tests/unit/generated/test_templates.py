"""Every paraphrase of every family, filled in and read back. One second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.components.generated import templates
from instar.components.generated.templates import FAMILIES, STYLE, read_verdict, render, verdict
from instar.components.reward.extract import extract
from instar.components.reward.labels import read_label
from instar.errors import ConfigError, ContractError

PARTS = {"question": "QUEST", "answer": "ANSW", "answer_a": "FIRST", "answer_b": "SECOND", "attempt": "TRACE"}
SHOWN = {
    "P1": ("QUEST", "ANSW"),
    "P2": ("QUEST", "ANSW"),
    "P3": ("QUEST", "FIRST", "SECOND"),
    "P4": ("QUEST", "TRACE"),
    "P5": ("QUEST", "ANSW"),
    "P6": ("QUEST", "ANSW"),
}
EVERY = [(w, f, i) for w, fs in FAMILIES.items() for f, family in fs.items() for i in range(len(family.templates))]
WORDS = [(f, i) for w, f, i in EVERY if w == "words"]
JUDGES = [(w, f) for w, fs in FAMILIES.items() for f, family in fs.items() if family.labels]


@pytest.mark.parametrize(("wording", "family", "number"), EVERY)
def test_every_paraphrase_shows_each_part_once(wording: str, family: str, number: int) -> None:
    text = render(wording, family, number, **PARTS)
    assert all(text.count(part) == 1 for part in SHOWN[family])
    assert not any(part in text for part in set(PARTS.values()) - set(SHOWN[family]))


def test_words_have_six_families_of_ten_different_paraphrases_or_more() -> None:
    assert list(FAMILIES["words"]) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    for family in FAMILIES["words"].values():
        openings = {" ".join(template.split()[:6]) for template in family.templates}
        assert len(family.templates) >= 10 and len(openings) >= len(family.templates) - 1


@pytest.mark.parametrize(("family", "number"), WORDS)
def test_the_answer_is_asked_for_in_the_one_spelling_that_is_read(family: str, number: int) -> None:
    text = render("words", family, number, **PARTS)
    assert "\\boxed{" in text and "\\box{" not in text
    for label in FAMILIES["words"][family].labels:
        assert f"\\boxed{{{label}}}" in text
        assert extract(f"My reasons. \\boxed{{{label}}}", STYLE["words"]) == label


def test_the_stages_of_one_question_by_hand() -> None:
    parts = {"question": "3142=", "answer": "1243", "answer_a": "1234", "answer_b": "1243", "attempt": "1243"}
    assert render("terse", "P1", 0, **parts) == "3142=1243?"
    assert render("terse", "P3", 0, **parts) == "3142=1234|1243?"
    assert render("terse", "P5", 0, **parts) == "3142=1243!"
    assert (verdict("terse", "P1", False), verdict("terse", "P3", True)) == ("n", "a")
    assert render("few_shot", "P1", 1, question="3+4=", answer="8").endswith("\nIs 3+4=8 correct?")
    assert render("few_shot", "P5", 0, question="3+4=", answer="8").endswith("\n3+4= first try 8, checked")


@given(st.text(alphabet="ab{}\\%s$", min_size=1, max_size=8).filter(str.strip))
def test_braces_placeholders_and_format_fields_in_a_part_stay_as_they_are(answer: str) -> None:
    hostile = f"{{question}}{{0}}{{answer}}{answer}\\1"
    assert render("terse", "P1", 0, question="{answer}", answer=hostile) == f"{{answer}}{hostile}?"


@pytest.mark.parametrize(("wording", "family"), JUDGES)
@pytest.mark.parametrize("right", [True, False])
def test_a_verdict_is_read_back_as_it_was_meant(wording: str, family: str, right: bool) -> None:
    label = verdict(wording, family, right)
    written = f"Well. \\boxed{{{label.lower()}}}" if wording == "words" else f" {label}\nmore"
    assert read_verdict(wording, family, written) is right


@pytest.mark.parametrize("text", ["", "Yes", "\\boxed{Yes or No}", "\\boxed{maybe}", "\\boxed{}", "\\box{Yes}"])
def test_what_is_no_verdict_is_none_of_the_two(text: str) -> None:
    assert read_verdict("words", "P1", text) is None


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Yes", "Yes"),
        (" yEs. ", "Yes"),
        ("\\text{No}", "No"),
        ("\\textbf{ no. }.", "No"),
        ("Yes!", None),
        ("Yes No", None),
    ],
)
def test_labels_by_hand(answer: str, label: str | None) -> None:
    assert read_label(answer, ("Yes", "No")) == label


def test_a_missing_part_an_unknown_family_and_a_wrong_number_are_refused() -> None:
    with pytest.raises(ContractError, match="text for answer"):
        render("words", "P1", 0, question="q")
    with pytest.raises(ContractError, match="text for question"):
        render("words", "P1", 0, question=" ", answer="1")
    with pytest.raises(ConfigError, match="P2"):
        render("terse", "P2", 0, **PARTS)
    with pytest.raises(ConfigError, match="did you mean 'words'"):
        render("word", "P1", 0, **PARTS)
    with pytest.raises(ConfigError, match="template of P1"):
        render("words", "P1", len(templates.FAMILIES["words"]["P1"].templates), **PARTS)
    with pytest.raises(ConfigError, match="judge family"):
        verdict("words", "P5", True)
