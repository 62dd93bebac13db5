"""What a chat template puts around a user message, or makes of a conversation.

For a user message, the template is rendered with a placeholder, and the text is split there.

A template is a program that came with a model. It runs in a process of its own, with limits of memory and processor time
(`template_child`). That process is started once and stays, so a rendering costs about 100 microseconds. Templates that ask for the
date always get the same one, because a prompt must not depend on the day on which it is built.
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

from instar.components.conversation import Conversation
from instar.components.policy_files import read_object, read_text
from instar.errors import ArtifactError, ContractError

_CORE = "Aa\ue000 <&>\"'  {{ 7 }}\n\u00e9\ue001zZ"  # the placeholder: blanks, braces and quotes inside, no blank at its ends
_EDGED = f" \n{_CORE}\n "
CPU_S, DEADLINE_S = 5.0, 60.0
"""Most seconds of one rendering: of processor time, and in all on a busy machine."""
_CHILD = Path(__file__).with_name("template_child.py")
_PASSED = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A chat template, the special tokens that it may name, and the folder from which both come."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    where: str

    def render(self, message: str) -> str:
        """Return the prompt for one user message. Raises `ContractError` when the template fails or goes beyond a limit."""
        return self.converse(Conversation(messages=[{"role": "user", "content": message}]), "one user message")

    def converse(self, conversation: Conversation, what: str = "the messages of a task") -> str:
        """Return the text of a conversation. Raises `ContractError` when the template fails or goes beyond a limit."""
        request = {"template": self.source, "tokens": dict(self.tokens), "asks": conversation.asks}
        reply = _ask({**request, "messages": conversation.messages, "tools": conversation.tools})
        if "error" in reply:
            raise self.refused(f"a template that can be rendered for {what}", reply["error"])
        return str(reply["text"])

    def refused(self, expected: str, found: str) -> ContractError:
        """Return the error for a fault of this template."""
        return ContractError(
            expected=expected,
            found=found[:300],
            where=f"chat template of {self.where}",
            action="correct the template, or choose a prompt template of form text",
        )


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The text before and after the user's message. `trims` says that the template removes blanks at the ends of a message."""

    head: str
    tail: str
    trims: bool


def read_template(folder: Path) -> Template:
    """Return the chat template of a policy folder with the special tokens it may name (`bos_token`, `eos_token`, ...).

    The file `chat_template.jinja` is taken where it exists, otherwise the entry in `tokenizer_config.json`. If that entry has
    several named templates, `default` is taken. Raises `ArtifactError` when there is no template, or when a file cannot be
    read.
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

    Raises `ContractError` when the template cannot be rendered for a single user message. Also raises it when the template
    changes the message, unless it only removes blanks at the ends. A placeholder cannot show how a template treats particular
    words.
    """
    text = template.render(_CORE)
    if text.count(_CORE) != 1:
        count = f"a text that has it {text.count(_CORE)} times"
        raise template.refused("a text that has the user's message once, unchanged", count)
    head, _, tail = text.partition(_CORE)
    return Frame(head=head, tail=tail, trims=template.render(_EDGED) != f"{head}{_EDGED}{tail}")


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


@dataclass(frozen=True, kw_only=True)
class _Child:
    """The process that renders templates for this process. After a fork, the new process starts a child of its own."""

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
    """Return the answer of the child. If a limit ended the child, return an error; the next request starts a new child."""
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
            fault = f"a process that ended with {child.process.returncode}, at a limit of {CPU_S} s or of memory"
        except TimeoutError:
            fault = f"no end within {DEADLINE_S:.0f} s"
        except OSError as error:
            fault = f"a process that is gone ({error})"
        _stop()
        return {"error": fault}


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
