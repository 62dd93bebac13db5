"""From a row of cells to a task: the text of the prompt, the reference, and the labels that arms and splits come from.

What a task cannot hold is refused here with file, row and column: empty prompts, nulls, NUL characters, wrong types, cells that are
too long, and images.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instar.components.dataset_prep.imported.columns import Columns, cell, is_missing
from instar.components.dataset_prep.imported.part import MAX_CHARS, Cells, Part, refused

Form: TypeAlias = Literal["text", "chat", "messages"]
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One checked row. `key` is the hash of the prompt alone, and `content` that of prompt and reference."""

    prompt: str
    answer: str | None
    reference: str
    key: bytes
    content: bytes
    arm: str
    level: str | float | None
    split: object


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Turns the rows of a data set into tasks. All prompts of a data set have one form."""

    columns: Columns
    form: Form

    def task(self, row: Cells, part: Part, number: int) -> Task:
        """Return the task of a row. Raises `ContractError` with the place of the first cell that no task can hold."""
        columns = self.columns
        for name in columns.drop:
            row.pop(name, None)
        if columns.image and not _blank(cell(row, columns.image)):
            raise _image(part.place(number, columns.image))
        spoken: str | None = None
        if self.form == "messages":
            prompt, spoken = self._conversation(row, part, number)
        else:
            prompt = self._text(row, part, number)
        answer, value = self._answer(row, spoken, part, number)
        reference = self._reference(row, value, part, number)
        return self._task(prompt, answer, reference, row, part, number)

    def _task(self, prompt: str, answer: str | None, reference: str, row: Cells, part: Part, number: int) -> Task:
        try:
            key = hashlib.sha256(" ".join(prompt.split()).encode()).digest()
            content = hashlib.sha256(f"{prompt}\x1f{reference}".encode()).digest()
        except UnicodeEncodeError as error:
            raise refused(
                "text in Unicode",
                f"half of a surrogate pair, {error.object[error.start]!r}",
                part.place(number),
                "remove the character, or write the pair as one character",
            ) from error
        columns = self.columns
        return Task(
            prompt=prompt,
            answer=answer,
            reference=reference,
            key=key,
            content=content,
            arm=self._label(row, columns.arm, part, number) if columns.arm else "",
            level=self._level(row, part, number) if columns.level else None,
            split=cell(row, columns.split) if columns.split else None,
        )

    def _text(self, row: Cells, part: Part, number: int) -> str:
        name = self.columns.prompt
        prompt = _filled(cell(row, name), part, number, name)
        if not isinstance(prompt, str):
            action = "choose another column with --prompt; a conversation is a list of messages in every row"
            raise refused("a text", prompt, part.place(number, name), action)
        _check_text(prompt, part, number, name)
        if self.columns.more and isinstance(more := cell(row, self.columns.more), str) and more.strip():
            _check_text(more, part, number, self.columns.more)
            prompt = f"{prompt}\n\n{more}"
        if not prompt.strip():
            raise refused("a prompt", "an empty text", part.place(number, name), "remove the row, or write its prompt")
        if self.form == "chat":
            return prompt.strip()  # most chat templates remove blanks at the ends of a message
        return prompt

    def _conversation(self, row: Cells, part: Part, number: int) -> tuple[str, str | None]:
        """Return the prompt of a conversation as JSON, and what the assistant says at its end, if anything."""
        name = self.columns.prompt
        where, value = part.place(number, name), _filled(cell(row, name), part, number, name)
        if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
            raise refused("a list of messages", value, where, 'write [{"role": "user", "content": "..."}]')
        messages = [_message(item, where) for item in value]
        spoken = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
        if not messages or messages[-1]["role"] not in ("user", "tool"):
            action = "end the conversation with a message of the user or of a tool"
            raise refused("a conversation that asks for an answer", value, where, action)
        if not any(str(m.get("content") or "").strip() for m in messages if m["role"] in ("user", "tool")):
            raise refused("a prompt", "empty messages", where, "remove the row, or write its prompt")
        prompt: dict[str, Any] = {"messages": messages}
        if self.columns.tools and (tools := _tools(cell(row, self.columns.tools), part, number, self.columns.tools)):
            prompt["tools"] = tools
        text = _json(prompt, where)
        _check_text(text, part, number, name)
        return text, spoken

    def _answer(self, row: Cells, spoken: str | None, part: Part, number: int) -> tuple[str | None, Any]:
        """Return the answer as text, where it is one, and as the reference holds it."""
        name = self.columns.answer
        if not name:
            return spoken, spoken
        value = _filled(cell(row, name), part, number, name)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping) and "role" in value[0]:
            value = value[0].get("content")  # the completion of a conversation
        text = as_text(value)
        if text is None and isinstance(value, float):
            raise refused("a finite number", value, part.place(number, name), "correct the cell")
        if text is not None:
            _check_text(text, part, number, name)
            if not text.strip():
                raise refused(
                    "an answer", "an empty text", part.place(number, name), "remove the row, or write its answer"
                )
        return text, value if text is None else text

    def _reference(self, row: Cells, answer: Any, part: Part, number: int) -> str:
        """Return the other columns of the row as JSON, with the answer as `answer`."""
        columns, where = self.columns, part.place(number)
        used = {columns.prompt, columns.more, columns.arm, columns.level, columns.split, columns.tools, columns.image}
        rest = {name: value for name, value in row.items() if name not in used}
        if "answer" in rest and columns.answer != "answer":
            action = "choose it with --answer answer, or leave it out with --drop answer"
            raise refused(
                f"no column 'answer' beside '{columns.answer or 'the last message'}', because a reference has one answer",
                rest["answer"],
                part.place(number, "answer"),
                action,
            )
        text = _json({**rest, "answer": answer}, where)
        if "\\u0000" in text:
            raise refused("text without NUL characters", "a NUL character", where, "remove it, or --drop its column")
        if len(text) > 4 * MAX_CHARS:
            raise refused(f"a row of at most {4 * MAX_CHARS:,} characters", f"{len(text):,}", where, "--drop a column")
        return text

    def _label(self, row: Cells, name: str, part: Part, number: int) -> str:
        text = as_text(_filled(cell(row, name), part, number, name))
        if text is None or not text.strip():
            raise refused(
                "a label", cell(row, name), part.place(number, name), "write the label, or choose another column"
            )
        return text.strip()

    def _level(self, row: Cells, part: Part, number: int) -> str | float:
        text = self._label(row, self.columns.level, part, number)
        try:
            value = float(text)
        except ValueError:
            return text
        if not math.isfinite(value):
            raise refused("a finite level", text, part.place(number, self.columns.level), "correct the cell")
        return value


def as_text(value: object) -> str | None:
    """Return a scalar as text, and None for anything else. `true` and `3.5` are written as JSON writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return json.dumps(int(value) if whole else value)
    return None


def form_of(value: object, asked: str) -> Form:
    """Return the form of prompts from the first of them. A list of messages has form `messages`."""
    if isinstance(value, list):
        return "messages"
    return "chat" if asked == "chat" else "text"


def _filled(value: Any, part: Part, number: int, name: str) -> Any:
    if is_missing(value) or value is None or (isinstance(value, float) and math.isnan(value)):
        found = "no such column" if is_missing(value) else "null"
        raise refused("a value in every row", found, part.place(number, name), "fill the cell, or remove the row")
    return value


def _check_text(text: str, part: Part, number: int, name: str) -> None:
    if len(text) > MAX_CHARS:
        action = "shorten it; a cell of this length is nearly always a quote that is never closed"
        raise refused(f"at most {MAX_CHARS:,} characters", f"{len(text):,}", part.place(number, name), action)
    if "\x00" in text:
        raise refused("text without NUL characters", "a NUL character", part.place(number, name), "remove it")


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a message without empty fields, which Parquet adds to structs."""
    message = {key: value for key, value in item.items() if value is not None}
    if message.get("role") not in ROLES:
        raise refused(f"a role of {', '.join(ROLES)}", message.get("role"), where, "rename the role")
    content = message.get("content", "" if "tool_calls" in message else None)
    if isinstance(content, list):
        if any(isinstance(piece, Mapping) and piece.get("type") != "text" for piece in content):
            raise _image(where)
        content = "".join(str(piece["text"]) for piece in content if isinstance(piece, Mapping) and "text" in piece)
    if not isinstance(content, str):
        raise refused("a message with a text as content", content, where, "write the content")
    return {**message, "content": content}


def _tools(value: Any, part: Part, number: int, name: str) -> list[Any]:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise refused("a JSON list of tools", str(error), part.place(number, name), "correct the cell") from error
    if _blank(value):
        return []
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise refused("a list of tools, each with its schema", value, part.place(number, name), "correct the cell")
    return list(value)


def _image(where: str) -> Exception:
    return refused(
        "rows of text",
        "an image",
        where,
        "remove the images, because no recipe reads them yet; --drop leaves the column out",
    )


def _blank(value: Any) -> bool:
    return is_missing(value) or value is None or value in ("", [], {})


def _json(value: Any, where: str) -> str:
    """Return canonical JSON of a reference or a conversation. NaN, which pandas writes for a missing cell, becomes null."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        cleaned = _without_nan(value, where)
        return json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise refused(
            "values that JSON can hold", str(error), where, "convert the column to text, or --drop it"
        ) from error


def _without_nan(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        if math.isinf(value):
            raise refused("finite numbers", value, where, "correct the cell, or --drop its column")
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(inner, where) for key, inner in value.items()}
    return [_without_nan(inner, where) for inner in value] if isinstance(value, list) else value
