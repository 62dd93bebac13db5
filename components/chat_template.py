"""What a chat template puts around one user message: rendered once, split where the message stands.

Templates are text that came with a model, so they run in jinja2's immutable sandbox, with the names that templates
commonly use. The date they may ask for is a fixed one: a prompt must not depend on the day it is built.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from instar.errors import ArtifactError, ContractError

DATE = datetime.datetime(2024, 7, 26)
"""What `strftime_now` reads; the date that Llama 3 templates name themselves where they cannot ask for one."""
_CORE = "Aa\ue000 <&>\"'  {{ 7 }}\n\u00e9\ue001zZ"  # blanks, braces, quotes and case inside; no blank at its ends
_EDGED = f" \n{_CORE}\n "


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Text before and after the user's message. `trims`: the template cuts blanks off the ends of a message."""

    head: str
    tail: str
    trims: bool


def read_template(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the chat template of a policy folder and the special tokens it may name (`bos_token`, `eos_token`, ...).

    `chat_template.jinja` comes before the entry of `tokenizer_config.json`, of whose named templates `default` is
    taken. Raises `ArtifactError` when there is none.
    """
    config = _json(folder / "tokenizer_config.json")
    names = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
    tokens = {key: text for key, text in names.items() if text is not None}
    file, named = folder / "chat_template.jinja", config.get("chat_template")
    if file.is_file():
        return file.read_text(encoding="utf-8"), tokens
    if isinstance(named, list):
        named = {entry["name"]: entry["template"] for entry in named}.get("default")
    if not isinstance(named, str):
        raise ArtifactError(
            expected="a chat template",
            found="neither chat_template.jinja nor chat_template in tokenizer_config.json",
            where=str(folder),
            action="choose a prompt template of form text for a base model, or add the model's chat_template.jinja",
        )
    return named, tokens


def frame(template: str, tokens: Mapping[str, str], where: str) -> Frame:
    """Return what `template` puts around one user message when it asks for an answer.

    Raises `ContractError` when the template cannot be rendered for a single user message, or changes the message in any
    other way than cutting blanks off its ends. What it does with particular words cannot be seen from a placeholder.
    """
    text = _render(template, tokens, _CORE, where)
    if text.count(_CORE) != 1:
        raise _refuse("the user's message once, unchanged", f"{text.count(_CORE)} times", where)
    head, _, tail = text.partition(_CORE)
    return Frame(head=head, tail=tail, trims=_render(template, tokens, _EDGED, where) != f"{head}{_EDGED}{tail}")


def _render(template: str, tokens: Mapping[str, str], message: str, where: str) -> str:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks what an assistant wrote; for a prompt its body is all that counts."""

        tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(words: str) -> NoReturn:
        raise jinja2.TemplateError(words)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": DATE.strftime}
    messages = [{"role": "user", "content": message}]
    try:
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True, **tokens)
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _refuse("a template for one user message", f"{type(error).__name__}: {error}", where) from error


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON as chat templates expect it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _refuse(expected: str, found: str, where: str) -> ContractError:
    return ContractError(
        expected=expected,
        found=found[:300],
        where=f"chat template of {where}",
        action="correct the template, or choose a prompt template of form text",
    )
