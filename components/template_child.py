"""The process in which chat templates are rendered. It runs as a script, reads requests from a socket, and answers each.

A template is a program that came with a model. The sandbox of jinja2 protects the files of the machine, but not its memory and its
time. The limits of this process protect those. The process holds no secrets, writes no files, and ends when the socket closes. It
imports only the standard library and jinja2.
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
"""The date for `strftime_now`. Llama 3 templates use the same date where they cannot ask for one."""
MEMORY_BYTES, MAX_CHARS = 512 << 20, 1_000_000
"""Limits: the address space of this process in bytes, and the characters of a rendered text."""


class Generation(jinja2.ext.Extension):
    """The tag `{% generation %}`, which marks what an assistant wrote. A prompt needs only the body of the tag."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(words: str) -> NoReturn:
        raise jinja2.TemplateError(words)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": DATE.strftime}
    del environment.filters["random"], environment.globals["lipsum"]  # a prompt must be the same every time
    return environment


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Return JSON as chat templates expect it, which is without escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


_ENVIRONMENT = _environment()


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def render(request: dict[str, Any]) -> dict[str, str]:
    """Return `text`, the rendered conversation, or `error`. With `asks` it asks for an answer.

    Every exception counts as a fault of the template. It gets the variables that transformers gives it.
    """
    variables = {"messages": request["messages"], "tools": request["tools"], "documents": None}
    try:
        template = _compiled(request["template"])
        text = template.render(**variables, add_generation_prompt=request["asks"], **request["tokens"])
    except MemoryError:
        return {"error": f"more than {MEMORY_BYTES >> 20} MiB of memory"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"text": text} if len(text) <= MAX_CHARS else {"error": f"{len(text)} characters, more than {MAX_CHARS}"}


def lower(kind: int, most: int) -> None:
    """Lower a soft limit of this process to `most`, or to its hard limit if that is lower."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def serve(channel: socket.socket, cpu_s: float) -> None:
    """Answer requests until the other side closes. A request is one line with a JSON object.

    A request that takes more than `cpu_s` seconds of processor time ends this process.
    """
    with channel.makefile("rw", encoding="ascii", newline="\n") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal has no handler, so it ends the process
            lines.write(json.dumps(render(json.loads(line))) + "\n")
            lines.flush()


if __name__ == "__main__":
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        lower(kind, most)
    serve(socket.socket(fileno=0), float(sys.argv[1]))
