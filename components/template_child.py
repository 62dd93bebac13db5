"""The process in which chat templates are rendered: run as a script, it reads requests from a socket and answers each.

A template is a program that came with a model. jinja2's sandbox keeps it from the machine's files but not from its memory
and time; the limits of this process do. It holds no secrets, writes no files, and ends when the socket closes. Beside
the standard library it imports jinja2 alone.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import socket
import sys
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

DATE = datetime.datetime(2024, 7, 26)
"""What `strftime_now` reads; the date that Llama 3 templates name themselves where they cannot ask for one."""
MEMORY_BYTES, MAX_CHARS = 512 << 20, 1_000_000
"""Limits: address space of this process, length of what a template gives."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote; for a prompt its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(words: str) -> NoReturn:
        raise jinja2.TemplateError(words)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": DATE.strftime}
    del made.filters["random"], made.globals["lipsum"]  # a prompt is the same every time
    return made


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """JSON as chat templates expect it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


_ENVIRONMENT = _environment()


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def render(request: dict[str, Any]) -> dict[str, str]:
    """Return `text`, what the template makes of one user message, or `error`: whatever goes wrong is the template's doing."""
    messages = [{"role": "user", "content": request["message"]}]
    try:
        template = _compiled(request["template"])
        text = template.render(messages=messages, add_generation_prompt=True, **request["tokens"])
    except MemoryError:
        return {"error": f"more than {MEMORY_BYTES >> 20} MiB of memory"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"text": text} if len(text) <= MAX_CHARS else {"error": f"{len(text)} characters, more than {MAX_CHARS}"}


def lower(kind: int, most: int) -> None:
    """Lower a soft limit of this process to `most`; a lower hard limit that it was started with stays."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def serve(channel: socket.socket, cpu_s: float) -> None:
    """Answer requests, one JSON object a line, until the other side closes; one that takes `cpu_s` ends this process."""
    with channel.makefile("rw", encoding="ascii", newline="\n") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)  # processor time; nobody handles its signal
            lines.write(json.dumps(render(json.loads(line))) + "\n")
            lines.flush()


if __name__ == "__main__":
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        lower(kind, most)
    serve(socket.socket(fileno=0), float(sys.argv[1]))
