"""How an answer is found in a completion. Rewards, evaluation and warm start all use `extract`, so they find the same answer.

Every style takes time linear in the length of the text, so a hostile completion cannot stall the stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from instar.errors import ConfigError, nearest

_BOX = re.compile(r"\\boxed\s*\{|\\[{}\\]|[{}]")
_TAG = re.compile(r"<(/?)answer>")
_BLANK = re.compile(r"\s*")
Span: TypeAlias = tuple[int, int]
"""Where a part of a text begins, and the position after its last character."""


def boxed(text: str) -> Span | None:
    r"""Return the content of the `\boxed{...}` that begins last, so of nested boxes the inner one. Blank boxes do not count.

    `\{` and `\}` are printed braces and have no partner. A box that is never closed does not count.
    """
    open_braces: list[int] = []  # where the content of an open box begins, or -1 for a plain brace
    best: Span | None = None
    for match in _BOX.finditer(text):
        token = match.group()
        if token.startswith("\\boxed"):
            open_braces.append(match.end())
        elif token == "{":
            open_braces.append(-1)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start > (best[0] if best else -1) and not _BLANK.fullmatch(text, start, match.start()):
                best = (start, match.start())
    return best


def line(text: str) -> Span | None:
    """Return the first line."""
    return 0, len(text.partition("\n")[0])


def tag(text: str) -> Span | None:
    """Return the content of the last complete `<answer>...</answer>` that is not blank."""
    start, best = -1, None
    for match in _TAG.finditer(text):
        if not match.group(1):
            start = match.end()
        elif start >= 0:
            best, start = best if _BLANK.fullmatch(text, start, match.start()) else (start, match.start()), -1
    return best


def whole(text: str) -> Span | None:
    """Return the completion as it is."""
    return 0, len(text)


STYLES: dict[str, Callable[[str], Span | None]] = {"boxed": boxed, "line": line, "tag": tag, "whole": whole}


def locate(text: str, style: str) -> Span | None:
    """Return where the answer in `text` stands, without the blanks around it. None means that there is no answer, or a blank one.

    Raises `ConfigError` for an unknown style.
    """
    if style not in STYLES:
        raise ConfigError(
            expected=f"one of the styles {', '.join(STYLES)}",
            found=f"'{style}'",
            where="reward.style",
            action=nearest(style, STYLES),
        )
    span = STYLES[style](text)
    if span is None:
        return None
    answer = text[slice(*span)]
    start = span[0] + len(answer) - len(answer.lstrip())
    return (start, start + len(answer.strip())) if answer.strip() else None


def extract(text: str, style: str) -> str | None:
    """Return the answer that `locate` finds in `text`, or None."""
    span = locate(text, style)
    return None if span is None else text[slice(*span)]
