"""Which column is what: the prompt, the answer, the arm, the level and the split. What is not named is guessed from the names.

A guess is only made where one reading is possible. Otherwise the error shows the columns, a sample and the options to pass.
A column inside a struct is written with a dot, for example `reward_model.ground_truth`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from instar.errors import ConfigError, nearest
from instar.plain import brief

PROMPTS = ("prompt", "question", "problem", "instruction", "input", "query", "messages", "conversations")
ANSWERS = (
    "answer",
    "solution",
    "completion",
    "output",
    "response",
    "target",
    "ground_truth",
    "reward_model.ground_truth",
)
ARMS, LEVELS, SPLIT, TOOLS, IMAGES = (
    ("arm", "data_source"),
    ("level", "difficulty"),
    "split",
    "tools",
    ("images", "image"),
)
_MISSING = object()


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The column of each part of a task. Empty means that there is none. `drop` are columns that are left out."""

    prompt: str = ""
    answer: str = ""
    arm: str = ""
    level: str = ""
    split: str = ""
    tools: str = ""
    image: str = ""
    more: str = ""
    """A column whose text follows the prompt, as `input` follows `instruction`."""
    layout: str = ""
    """The layout that was recognised, for people."""
    drop: tuple[str, ...] = ()

    def named(self) -> dict[str, str]:
        """Return the parts that have a column."""
        names = ("prompt", "more", "answer", "arm", "level", "split", "tools", "image")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def guess(sample: Sequence[Mapping[str, Any]], asked: Columns, where: str) -> Columns:
    """Return `asked` with the columns that it leaves empty. `sample` are the first rows.

    Raises `ConfigError` for a name that no row has, and where two columns could be the prompt or the answer.
    """
    present = [name for name in dict.fromkeys(key for row in sample for key in row) if name not in asked.drop]
    for option, name in asked.named().items():
        if not any(cell(row, name) is not _MISSING for row in sample):
            raise ConfigError(
                expected=f"a column of the rows: {', '.join(present)}",
                found=f"'{name}'",
                where=f"--{option}",
                action=nearest(name, present),
            )
    return _Guess(sample=sample, present=present, where=where).complete(asked)


def cell(row: Mapping[str, Any], name: str) -> Any:
    """Return the cell of a column, or of a field inside a struct. `is_missing` tells a cell that is not there."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def is_missing(value: object) -> bool:
    """Return whether `cell` found no such column."""
    return value is _MISSING


@dataclass(frozen=True, kw_only=True)
class _Guess:
    sample: Sequence[Mapping[str, Any]]
    present: Sequence[str]
    where: str

    def complete(self, asked: Columns) -> Columns:
        columns = asked if asked.prompt else self._with_prompt(asked)
        taken = {columns.prompt, columns.more}
        columns = columns if columns.answer else replace(columns, answer=self._answer(columns, taken))
        taken.add(columns.answer)
        free = [name for name in self.present if name not in taken]
        return replace(
            columns,
            arm=columns.arm or self._first(ARMS, free),
            level=columns.level or self._first(LEVELS, free),
            split=columns.split or self._first((SPLIT,), free),
            tools=columns.tools or self._first((TOOLS,), free),
            image=columns.image or self._first(IMAGES, free),
            layout=columns.layout or self._layout(columns),
        )

    def _with_prompt(self, asked: Columns) -> Columns:
        options = [name for name in PROMPTS if self._has(name) and name not in (asked.answer, asked.arm, asked.level)]
        if {"instruction", "input"} <= {*options} and len(options) == 2:
            return replace(asked, prompt="instruction", more="input")
        if options == ["input"] or len(options) == 1:
            return replace(asked, prompt=options[0])
        if set(options) == {"prompt", "messages"}:
            raise self._unclear("prompt", options, "both hold a conversation or a text")
        raise self._unclear("prompt", options, "several columns could be the prompt" if options else "no known name")

    def _answer(self, columns: Columns, taken: set[str]) -> str:
        options = [name for name in ANSWERS if self._has(name) and name not in taken]
        if len(options) <= 1 or options[0] == "answer":
            return options[0] if options else ""
        raise self._unclear("answer", options, "several columns could be the answer")

    def _layout(self, columns: Columns) -> str:
        if columns.answer == "reward_model.ground_truth":
            return "verl"
        if columns.more:
            return "instruction with input"
        if columns.prompt == "messages" or columns.answer in ("completion", "solution"):
            return "TRL"
        return "EasyR1" if columns.prompt == "problem" and columns.answer == "answer" else "plain"

    def _has(self, name: str) -> bool:
        if name not in self.present and "." not in name:
            return False
        return any(cell(row, name) not in (_MISSING, None) for row in self.sample)

    def _first(self, names: Sequence[str], free: Sequence[str]) -> str:
        return next((name for name in names if name in free and self._has(name)), "")

    def _unclear(self, part: str, options: Sequence[str], why: str) -> ConfigError:
        first = {name: brief(value)[:60] for name, value in (self.sample[0] if self.sample else {}).items()}
        names = options or self.present
        return ConfigError(
            expected=f"one column that is the {part}",
            found=f"{why}; columns {', '.join(self.present)}; first row {first}",
            where=self.where,
            action=f"name it: {' or '.join(f'--{part} {name}' for name in names[:6])}",
        )
