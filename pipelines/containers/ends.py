"""What a container leaves: its output, copied to a log with secrets masked, and the error that its exit code stands for."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from instar.errors import BY_CODE, InstarError, ProcessError, StalledError, UnavailableError

SHOWN = 8  # lines of output in an error message


def masked(text: str, secrets: Mapping[str, str]) -> str:
    """Return `text` with every line of every value of `secrets` replaced."""
    lines = {line for value in secrets.values() for line in value.splitlines() if line.strip()}
    for line in sorted(lines, key=len, reverse=True):
        text = text.replace(line, "***")
    return text


def copy_log(chunks: Iterable[bytes], log: Path, secrets: Mapping[str, str]) -> list[str]:
    """Write the container's output to `log` as it comes, line by line, and return the last lines."""
    tail: deque[str] = deque(maxlen=SHOWN)
    rest = b""
    with log.open("w", encoding="utf-8") as file:
        for chunk in itertools.chain(chunks, [b""]):
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk and rest:  # the end, without a newline
                lines.append(rest)
            for line in lines:
                text = masked(line.decode(errors="replace"), secrets)
                file.write(text + "\n")
                if text.strip():
                    tail.append(text.strip())
            file.flush()
    return list(tail)


def failed(code: int, tail: list[str], where: str, *, late_s: float = 0.0, out_of_memory: bool = False) -> InstarError:
    """Return the error of a container that ended with `code`. `tail` are its last lines of output.

    If it was stopped at its limit, `late_s` is that limit. A kill is a transient error, because its cause may lie outside the
    stage.
    """
    kind: type[InstarError] = BY_CODE.get(code, ProcessError)
    action = "run again; results that are recorded are kept" if kind.transient else "read the log and correct the cause"
    what = f"exit code {code}"
    if late_s:
        kind, action = StalledError, "run again; if it is late again, read the log"
        what += f" after it was stopped at its limit of {late_s:g} s"
    elif code in (137, 143):
        kind, action = UnavailableError, "run again; raise the memory limit if it was too low"
        what += ", killed (out of memory)" if out_of_memory else ", killed (out of memory or by hand)"
    return kind(
        expected="exit code 0",
        found=f"{what}; {' | '.join(tail) or 'no output'}"[:2000],
        where=where,
        action=action,
    )
