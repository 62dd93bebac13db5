from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from instar import errors
from instar.errors import ConfigError, InstarError, nearest

ERRORS = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, InstarError) and c is not InstarError
]


def test_every_class_has_its_own_exit_code() -> None:
    codes = [c.exit_code for c in ERRORS]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 2, 3} & set(codes), "kept for success, crashes and `instar evaluate`"
    assert all(0 < code < 128 for code in codes), "128 and up mean death by a signal"


def test_transient_codes_are_apart_from_permanent_ones() -> None:
    transient = {c.exit_code for c in ERRORS if c.transient}
    assert transient == {75, 76}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda c: c.__name__)
def test_message_says_expected_found_where_and_what_to_do(kind: type[InstarError]) -> None:
    error = kind(expected="three", found="two", where="file:field", action="add one")
    assert str(error) == "expected three; found two; at file:field; add one"
    assert error.render().splitlines() == [
        kind.__name__,
        "  expected: three",
        "  found:    two",
        "  where:    file:field",
        "  do:       add one",
    ]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda c: c.__name__)
def test_every_class_states_its_meaning(kind: type[InstarError]) -> None:
    assert kind.__doc__ and kind.__doc__ != InstarError.__doc__


def test_errors_page_lists_every_class() -> None:
    page = (Path(__file__).parents[2] / "docs/errors.md").read_text()
    for kind in ERRORS:
        assert f"| {kind.exit_code} | `{kind.__name__}` | {'yes' if kind.transient else 'no'} |" in page


def test_no_field_can_look_like_another_one_or_command_a_terminal() -> None:
    found = "x\n  do:       rm -rf ~\x1b[2J\r" + "y" * 10_000
    lines = ConfigError(expected="a", found=found, where="b", action="c").render().splitlines()
    labels = [line for line in lines if not line.startswith(" " * 12)]
    assert [label.split(":")[0] for label in labels] == ["ConfigError", "  expected", "  found", "  where", "  do"]
    assert labels[-1] == "  do:       c"
    assert all(len(line) < 2200 and line.isprintable() for line in lines)


def test_all_four_parts_are_required() -> None:
    with pytest.raises(TypeError):
        ConfigError(expected="a", found="b", where="c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("name", "valid", "hint"),
    [
        ("tua", ["tau", "alpha"], "did you mean 'tau'?"),
        ("learning_rate", ["lr", "eps"], "valid: eps, lr"),
        ("", ["b", "a"], "valid: a, b"),
    ],
)
def test_nearest(name: str, valid: list[str], hint: str) -> None:
    assert nearest(name, valid) == hint
