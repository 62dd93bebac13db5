"""What a chat template puts around one user message: rendered once with a placeholder, split where that stands.

Templates are programs that came with a model. They run in a process of their own with limits of memory and processor time
(`template_child`), which is started once and kept; a rendering costs about 100 microseconds. The date that templates may ask
for is a fixed one: a prompt must not depend on the day it is built.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar.components.policy_files import read_object, read_text
from instar.errors import ArtifactError, ContractError

_CORE = "Aa\ue000 <&>\"'  {{ 7 }}\n\u00e9\ue001zZ"  # blanks, braces, quotes and case inside; no blank at its ends
_EDGED = f" \n{_CORE}\n "
CPU_S, DEADLINE_S = 5.0, 60.0
"""Processor time of one rendering, and how long it may take on a busy machine."""
_CHILD = Path(__file__).with_name("template_child.py")
_PASSED = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A chat template, the special tokens it may name, and where both come from."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    where: str

    def render(self, message: str) -> str:
        """Return the prompt for one user message. Raises `ContractError` when the template fails or goes beyond a limit."""
        reply = _ask({"template": self.source, "tokens": dict(self.tokens), "message": message})
        if "error" in reply:
            raise self.refused("a template for one user message", reply["error"])
        return str(reply["text"])

    def refused(self, expected: str, found: str) -> ContractError:
        """Return the error about this template."""
        return ContractError(
            expected=expected,
            found=found[:300],
            where=f"chat template of {self.where}",
            action="correct the template, or choose a prompt template of form text",
        )


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Text before and after the user's message. `trims`: the template cuts blanks off the ends of a message."""

    head: str
    tail: str
    trims: bool


def read_template(folder: Path) -> Template:
    """Return the chat template of a policy folder with the special tokens it may name (`bos_token`, `eos_token`, ...).

    `chat_template.jinja` comes before the entry of `tokenizer_config.json`, of whose named templates `default` is
    taken. Raises `ArtifactError` when there is none, or a file is unreadable.
    """
    config = read_object(folder, "tokenizer_config.json")
    names = {key: _content(value) for key, value in config.items() if key.endswith("_token")}
    tokens = {key: text for key, text in names.items() if text is not None}
    source, named = read_text(folder, "chat_template.jinja"), config.get("chat_template")
    if source is not None:
        return Template(source=source, tokens=tokens, where=str(folder))
    if isinstance(named, list):
        named = next((e.get("template") for e in named if isinstance(e, dict) and e.get("name") == "default"), None)
    if not isinstance(named, str):
        raise ArtifactError(
            expected="a chat template",
            found="neither chat_template.jinja nor chat_template in tokenizer_config.json",
            where=str(folder),
            action="choose a prompt template of form text for a base model, or add the model's chat_template.jinja",
        )
    return Template(source=named, tokens=tokens, where=str(folder))


def frame(template: Template) -> Frame:
    """Return what `template` puts around one user message when it asks for an answer.

    Raises `ContractError` when the template cannot be rendered for a single user message, or changes the message in any
    other way than cutting blanks off its ends. What it does with particular words cannot be seen from a placeholder.
    """
    text = template.render(_CORE)
    if text.count(_CORE) != 1:
        raise template.refused("the user's message once, unchanged", f"{text.count(_CORE)} times")
    head, _, tail = text.partition(_CORE)
    return Frame(head=head, tail=tail, trims=template.render(_EDGED) != f"{head}{_EDGED}{tail}")


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


@dataclass(frozen=True, kw_only=True)
class _Child:
    """The process that renders for this one: a forked copy of this process starts its own."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    owner: int

    def end(self) -> None:
        self.channel.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_LOCK = threading.Lock()
_RUNNING: list[_Child] = []


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of the process; one that a limit ended is an error of its template, and the next starts anew."""
    with _LOCK:
        child = _running()
        try:
            child.channel.sendall(json.dumps(request).encode("ascii") + b"\n")
            answer = bytearray()
            while not answer.endswith(b"\n"):
                part = child.channel.recv(1 << 16)
                if not part:
                    break
                answer += part
            if answer.endswith(b"\n"):
                return dict(json.loads(answer))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(1.0)
            found = f"its process ended with {child.process.returncode}, at a limit of {CPU_S} s or of memory"
        except TimeoutError:
            found = f"no end within {DEADLINE_S:.0f} s"
        except OSError as error:
            found = f"its process is gone ({error})"
        _stop()
        return {"error": found}


def _running() -> _Child:
    if _RUNNING and (_RUNNING[0].owner != os.getpid() or _RUNNING[0].process.poll() is not None):
        _stop()
    if not _RUNNING:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.settimeout(DEADLINE_S)
            process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), str(CPU_S)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED if name in os.environ},
            )
        _RUNNING.append(_Child(process=process, channel=ours, owner=os.getpid()))
    return _RUNNING[0]


@atexit.register
def _stop() -> None:
    while _RUNNING:
        _RUNNING.pop().end()
