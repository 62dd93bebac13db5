"""Prompts of form `messages`: a conversation as JSON, which the policy's chat template renders as it is.

    {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}], "tools": [...]}

A message may spell a control token of the policy, for example `<|im_end|>`. Then the conversation is rendered with a placeholder in
its place, so that the token can be encoded as ordinary characters afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from instar import plain
from instar.errors import ContractError
from instar.plain import brief

ROLES = ("system", "developer", "user", "assistant", "tool")
OPEN, CLOSE = "\ue000", "\ue001"
"""What a placeholder begins and ends with. Texts that have these characters themselves cannot be hidden."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages, and the tools that the policy may call, as chat templates take them."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    asks: bool = True
    """Whether the policy is to answer. If not, the last message is an answer already."""

    def texts(self) -> Iterator[str]:
        """Yield every text in messages and tools, keys included."""
        yield from _texts(self.messages)
        yield from _texts(self.tools)

    def hidden(self, tokens: Collection[str]) -> tuple[Conversation, list[str]]:
        """Return the conversation with a placeholder for every control token that it spells, and what they stand for."""
        if any(OPEN in text or CLOSE in text for text in self.texts()):
            raise _refuse(
                "messages without U+E000 and U+E001 beside control tokens", "one of them", "remove the character"
            )
        pattern = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))
        originals: list[str] = []

        def hide(match: re.Match[str]) -> str:
            originals.append(match.group())
            return f"{OPEN}{len(originals) - 1}{CLOSE}"

        messages = _mapped(self.messages, lambda text: pattern.sub(hide, text))
        tools = _mapped(self.tools, lambda text: pattern.sub(hide, text))
        return Conversation(messages=messages, tools=tools, asks=self.asks), originals


def shown(text: str, originals: list[str]) -> str:
    """Return a text with the placeholders of `hidden` replaced by what they stand for."""
    return re.sub(f"{OPEN}(\\d+){CLOSE}", lambda match: originals[int(match.group(1))], text)


def read(prompt: str) -> Conversation:
    """Return the conversation of a prompt. Raises `ContractError` for anything but messages with known roles."""
    try:
        value = plain.loads(prompt)
    except ValueError as error:
        raise _refuse('JSON such as {"messages": [...]}', str(error), "import the rows again") from error
    if not isinstance(value, Mapping) or not set(value) <= {"messages", "tools"}:
        raise _refuse("an object with messages and tools", brief(value), "import the rows again")
    messages, tools = value.get("messages"), value.get("tools")
    if not isinstance(messages, list) or not messages or not all(_is_message(item) for item in messages):
        raise _refuse(f"a list of messages with roles {', '.join(ROLES)}", brief(messages), "import the rows again")
    if tools is not None and not isinstance(tools, list):
        raise _refuse("a list of tools", brief(tools), "import the rows again")
    return Conversation(messages=messages, tools=tools or None)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and value.get("role") in ROLES and isinstance(value.get("content"), str)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list) else value


def _refuse(expected: str, found: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where="Tasks:prompt", action=action)
