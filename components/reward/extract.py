"""The one answer extraction of instar: rewards, evaluation and warm start all read an answer through `extract`.

Every style is linear in the length of the text, so a hostile completion cannot stall a reward worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from instar.errors import ConfigError, nearest

_BOX = re.compile(r"\\boxed\s*\{|\\[{}\\]|[{}]")
_TAG = re.compile(r"<(/?)answer>")


def boxed(text: str) -> str | None:
    r"""Return the content of the last balanced `\boxed{...}`. Of nested boxes the innermost last one counts.

    `\{` and `\}` are printed braces, not structure. A box that is never closed does not count.
    """
    open_braces: list[int] = []  # where the content of an open box starts; -1 for a plain brace
    best: tuple[int, int] | None = None
    for match in _BOX.finditer(text):
        token = match.group()
        if token.startswith("\\boxed"):
            open_braces.append(match.end())
        elif token == "{":
            open_braces.append(-1)
        elif token == "}" and open_braces:
            start = open_braces.pop()
            if start > (best[0] if best else -1):
                best = (start, match.start())
    return text[best[0] : best[1]] if best else None


def line(text: str) -> str | None:
    """Return the first line."""
    return text.partition("\n")[0]


def tag(text: str) -> str | None:
    """Return the content of the last complete `<answer>...</answer>`."""
    start, best = -1, None
    for match in _TAG.finditer(text):
        if not match.group(1):
            start = match.end()
        elif start >= 0:
            best, start = text[start : match.start()], -1
    return best


STYLES: dict[str, Callable[[str], str | None]] = {"boxed": boxed, "line": line, "tag": tag}


def extract(text: str, style: str) -> str | None:
    """Return the stripped answer in `text`, or None when there is none or it is blank.

    Unknown styles are a `ConfigError`.
    """
    if style not in STYLES:
        raise ConfigError(
            expected=f"a style of {', '.join(STYLES)}",
            found=f"'{style}'",
            where="reward.style",
            action=nearest(style, STYLES),
        )
    answer = STYLES[style](text)
    return (answer.strip() or None) if answer is not None else None
