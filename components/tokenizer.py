"""Text to token ids and back, on the `tokenizers` library alone.

A prompt of form `text` is encoded with the post-processor that `tokenizer.json` declares (a start token where the policy
was trained with one), and with no other special token. Of form `chat` it stands between the two halves of the policy's
chat template, which are encoded once; what the user wrote can never become a special token. Truncation and padding saved in
the file are switched off: a prompt is never cut silently. Token ids are the record; `decode` gives a view of them and drops
special tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from instar.artifact import Policy
from instar.components.chat_template import frame, read_template
from instar.errors import ArtifactError, ContractError, InstarError

FORMS = ("text", "chat")
_EOS_FILES = ("generation_config.json", "config.json")
_PROBE = "What is 12 + 7?\nAnswer in one word, please."


@dataclass(frozen=True, kw_only=True)
class _Chat:
    """The encoded halves of a chat template, and a tokenizer to which control tokens are ordinary text."""

    head: list[int]
    tail: list[int]
    control: frozenset[int]
    trims: bool
    plain: Any

    def ids(self, message: str) -> list[int]:
        return [*self.head, *self.plain.encode(message, add_special_tokens=False).ids, *self.tail]


class TextTokenizer:
    """A tokenizer with the stop and padding ids of one policy folder.

    `eos_ids` come from the first of `generation_config.json`, `config.json`, `tokenizer_config.json` that names any;
    `pad_id` from the first that names one, otherwise the smallest stop id (rows are masked by length, never by id).
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise _wrong("a tokenizer.json", "no such file", file, "export the policy with its fast tokenizer")
        try:
            self._tokenizer: Any = Tokenizer.from_str(file.read_text())
        except Exception as error:  # the library raises bare Exception for a malformed file
            raise _wrong("a tokenizer the library can read", str(error), file, "export the tokenizer again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._folder = folder
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.eos_ids: frozenset[int] = self._eos_ids(folder)
        self.pad_id: int = self._pad_id(folder)
        probe = self.encode("0")
        if len(probe) > 1 and probe[-1] in self.eos_ids:
            raise _wrong("prompts left open", f"a post-processor that appends stop id {probe[-1]}", file, "remove it")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, including what the post-processor adds."""
        return list(self._tokenizer.encode(text).ids)

    def encode_prompt(self, prompt: str, form: str) -> list[int]:
        """Return the ids of a task's prompt: as `encode` for form `text`, inside the chat template for form `chat`.

        Raises `ArtifactError` when the policy has no chat template; `ContractError` for another form, for a template that
        alters messages, and for a prompt that a template would trim.
        """
        if form == "text":
            return self.encode(prompt)
        if form != "chat":
            raise _refuse(f"a form of {', '.join(FORMS)}", repr(form), "Tasks:form", "correct the task's form")
        chat = self._chat
        if chat.trims and prompt != prompt.strip():
            raise _refuse("a prompt without blanks at its ends", repr(prompt[:40]), "Tasks:prompt", "strip the prompt")
        ids = chat.ids(prompt)
        forged = chat.control & set(ids[len(chat.head) : len(ids) - len(chat.tail)])
        if forged:
            raise _refuse("no control token in a prompt", f"ids {sorted(forged)}", "Tasks:prompt", "reword the prompt")
        return ids

    @cached_property
    def _chat(self) -> _Chat:
        """Render, split and encode the chat template, on first use."""
        from tokenizers import Tokenizer

        template, tokens = read_template(self._folder)
        found = frame(template, tokens, str(self._folder))
        head, tail = (
            list(self._tokenizer.encode(text, add_special_tokens=False).ids) for text in (found.head, found.tail)
        )
        spec = json.loads(self._tokenizer.to_str())
        used = {*head, *tail, *self.eos_ids}
        for token in spec["added_tokens"]:  # a marker of the template is a control token, whatever the file calls it
            token["special"] = token["special"] or token["id"] in used
        plain: Any = Tokenizer.from_str(json.dumps(spec))
        plain.encode_special_tokens = True
        control = frozenset(token["id"] for token in spec["added_tokens"] if token["special"])
        chat = _Chat(head=head, tail=tail, control=control, trims=found.trims, plain=plain)
        whole = list(self._tokenizer.encode(f"{found.head}{_PROBE}{found.tail}", add_special_tokens=False).ids)
        if chat.ids(_PROBE) != whole:
            raise _refuse(
                "a message that is encoded alike alone and inside of its template",
                "other tokens at its borders",
                f"tokenizer.json of {self._folder}",
                "choose a prompt template of form text",
            )
        return chat

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens. Encoding it again may give other ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _eos_ids(self, folder: Path) -> frozenset[int]:
        for name in _EOS_FILES:
            value = _json(folder / name).get("eos_token_id")
            if value is not None and value != []:
                return frozenset([value] if isinstance(value, int) else value)
        found = self._named(folder, "eos_token")
        if found is None:
            raise _wrong(
                "a stop token (eos_token_id or eos_token)",
                "none",
                folder / "config.json",
                "name one: without it every sample would run to the length limit",
            )
        return frozenset([found])

    def _pad_id(self, folder: Path) -> int:
        values = [_json(folder / name).get("pad_token_id") for name in _EOS_FILES]
        values.append(self._named(folder, "pad_token"))
        return next((int(v) for v in values if v is not None), min(self.eos_ids))

    def _named(self, folder: Path, key: str) -> int | None:
        """Return the id of a token that `tokenizer_config.json` names by its text."""
        value = _json(folder / "tokenizer_config.json").get(key)
        text = value.get("content") if isinstance(value, dict) else value
        return None if text is None else self._tokenizer.token_to_id(text)


def load_tokenizer(policy: Policy) -> TextTokenizer:
    """Return the tokenizer of a policy folder, read once per digest and path. Raises `ArtifactError`."""
    return _load(policy.path, policy.digest)


@lru_cache(maxsize=8)
def _load(path: Path, digest: str) -> TextTokenizer:
    """Return the tokenizer of a folder; policies of one evolution have equal files and share it."""
    del digest  # part of the cache key: a folder that is written again has another digest
    files = [path / name for name in _FILES if (path / name).is_file()]
    key = hashlib.sha256(b"\0".join(file.name.encode() + b"\0" + _read(file) for file in files)).hexdigest()
    if key not in _SHARED:
        while len(_SHARED) >= 4:
            del _SHARED[next(iter(_SHARED))]
        _SHARED[key] = TextTokenizer(path)
        with contextlib.suppress(InstarError):
            _ = _SHARED[key]._chat  # now, because the folder may be gone when a prompt needs it; without one, then
    return _SHARED[key]


_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "chat_template.jinja")
_SHARED: dict[str, TextTokenizer] = {}


def _read(file: Path) -> bytes:
    """Return what of a file the tokenizer depends on: of `config.json` only the stop and padding ids."""
    if file.name != "config.json":
        return file.read_bytes()
    return json.dumps({key: _json(file).get(key) for key in ("eos_token_id", "pad_token_id")}).encode()


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _refuse(expected: str, found: str, where: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action=action)


def _wrong(expected: str, found: str, file: Path, action: str) -> ArtifactError:
    return ArtifactError(expected=expected, found=found, where=str(file), action=action)
