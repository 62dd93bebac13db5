"""Text to token ids and back, on the `tokenizers` library alone.

What a task says is text and never a control token, in every form: a special token, a marker of the chat template or a stop
token that a prompt spells is encoded as the characters it is written with. A prompt of form `text` is encoded with the
post-processor that `tokenizer.json` declares (a start token where the policy was trained with one), and with no other control
token. Of form `chat` it stands inside of the policy's chat template and has the ids that transformers gives the whole.
Truncation and padding saved in the file are switched off: a prompt is never cut silently. Token ids are the record; `decode`
gives a view of them and drops special tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from instar.artifact import Policy
from instar.components.chat_template import Frame, Template, frame, read_template
from instar.components.policy_files import library, read_object, read_text
from instar.errors import ArtifactError, ContractError, InstarError

FORMS = ("text", "chat")
_EOS_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True, kw_only=True)
class _Chat:
    """What goes around a message. `opening` and `closing` are ids up to the last and from the first control token of the
    template, `before` and `after` the text between them and the message; `marks` all control tokens of the template."""

    template: Template
    frame: Frame
    whole: Any
    plain: Any
    control: frozenset[int]
    opening: list[int]
    before: str
    after: str
    closing: list[int]

    @property
    def marks(self) -> list[int]:
        return [i for i in (*self.opening, *self.closing) if i in self.control]

    def ids(self, message: str) -> list[int]:
        """Return the ids of the rendered text; of a message that spells a control token, those of its characters."""
        rendered = f"{self.frame.head}{message}{self.frame.tail}"
        if self.template.render(message) != rendered:
            raise _refuse(
                "a template that puts the same around every message",
                f"other text around {message[:40]!r}",
                "Tasks:prompt",
                "reword the prompt, or choose a prompt template of form text",
            )
        ids = _encode(self.whole, rendered, False)
        if [i for i in ids if i in self.control] != self.marks:
            middle = _encode(self.plain, f"{self.before}{message}{self.after}", False)
            ids = [*self.opening, *middle, *self.closing]
        return ids


class TextTokenizer:
    """A tokenizer with the stop and padding ids of one policy folder.

    `eos_ids` come from the first of `generation_config.json`, `config.json`, `tokenizer_config.json` that names any;
    `pad_id` from the first that names one, otherwise the smallest stop id (rows are masked by length, never by id).
    """

    def __init__(self, folder: Path) -> None:
        file, text = folder / "tokenizer.json", read_text(folder, "tokenizer.json")
        if text is None:
            raise _wrong("a tokenizer.json", "no such file", file, "export the policy with its fast tokenizer")
        self._file, self._text = file, text
        self._tokenizer: Any = _made(text, file)
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self._config = read_object(folder, "tokenizer_config.json")
        self.eos_ids: frozenset[int] = self._eos_ids(folder)
        self.pad_id: int = self._pad_id(folder)
        self._template: Template | InstarError = _template(folder)
        self._control = self._control_ids(())
        self._plain = self._ordinary(self._control)
        self._unknown = self._unknown_id()
        self._due = self._controls(_encode(self._plain, "", True), self._control)
        probe = self.encode("0")
        if len(probe) > 1 and probe[-1] in self.eos_ids:
            raise _wrong("prompts left open", f"a post-processor that appends stop id {probe[-1]}", file, "remove it")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, including what the post-processor adds and no other control token.

        Raises `ContractError` for a text that the tokenizer cannot encode, or only with a control token.
        """
        ids = _encode(self._plain, text, True)
        self._check(ids, self._control, self._due)
        return ids

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
        if chat.frame.trims and prompt != prompt.strip():
            raise _refuse("a prompt without blanks at its ends", repr(prompt[:40]), "Tasks:prompt", "strip the prompt")
        ids = chat.ids(prompt)
        self._check(ids, chat.control, chat.marks)
        return ids

    @cached_property
    def _chat(self) -> _Chat:
        """Render, split and encode the chat template, on first use."""
        if isinstance(self._template, InstarError):
            raise self._template
        found, whole = frame(self._template), _made(self._text, self._file)
        head, tail = (_encoding(whole, text, False) for text in (found.head, found.tail))
        control = self._control_ids((*head.ids, *tail.ids))
        last = max((n + 1 for n, i in enumerate(head.ids) if i in control), default=0)
        first = next((n for n, i in enumerate(tail.ids) if i in control), len(tail.ids))
        return _Chat(
            template=self._template,
            frame=found,
            whole=whole,
            plain=self._plain if control == self._control else self._ordinary(control),
            control=control,
            opening=list(head.ids[:last]),
            before=found.head[head.offsets[last - 1][1] :] if last else found.head,
            after=found.tail[: tail.offsets[first][0]] if first < len(tail.ids) else found.tail,
            closing=list(tail.ids[first:]),
        )

    def _ordinary(self, control: frozenset[int]) -> Any:
        """Return a tokenizer to which control tokens are ordinary text: the one that decodes, where the file names them all."""
        plain = self._tokenizer
        if control != {number for number, token in plain.get_added_tokens_decoder().items() if token.special}:
            spec = json.loads(self._text)
            added = [token | {"special": token["id"] in control} for token in spec["added_tokens"]]
            plain = _made(json.dumps(spec | {"added_tokens": added}), self._file)
        plain.encode_special_tokens = True
        return plain

    def _control_ids(self, rendered: Iterable[int]) -> frozenset[int]:
        """Return the added tokens that structure a conversation, whatever the file calls them: special ones, those that
        the folder names, and the signs (no words, no blanks) that its chat template writes or `rendered` holds."""
        source = self._template.source if isinstance(self._template, Template) else ""
        named, used = {_content(v) for k, v in self._config.items() if k.endswith("_token")}, {*rendered}
        found = set()
        for number, token in self._tokenizer.get_added_tokens_decoder().items():
            text = token.content
            sign = bool(text.strip()) and not text.isalnum() and (text in source or number in used)
            if token.special or number in self.eos_ids or text in named or sign:
                found.add(number)
        return frozenset(found)

    def _controls(self, ids: Iterable[int], control: frozenset[int]) -> list[int]:
        return [i for i in ids if i in control and i != self._unknown]

    def _unknown_id(self) -> int | None:
        """Return the id that stands for characters outside of the vocabulary, unless it ends an answer."""
        from tokenizers import models

        model = self._tokenizer.model
        text = getattr(model, "unk_token", None)
        found: int | None = None if text is None else self._tokenizer.token_to_id(text)
        if isinstance(model, models.Unigram):  # it keeps an id, and shows it in the file alone
            found = json.loads(self._text)["model"].get("unk_id")
        return None if found in self.eos_ids else found

    def _check(self, ids: Sequence[int], control: frozenset[int], due: Sequence[int]) -> None:
        found = Counter(self._controls(ids, control)) - Counter(due)
        if found:
            raise _refuse("no control token in a prompt", f"ids {sorted(found)}", "Tasks:prompt", "reword the prompt")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens. Encoding it again may give other ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _eos_ids(self, folder: Path) -> frozenset[int]:
        for name in _EOS_FILES:
            value = read_object(folder, name).get("eos_token_id")
            if value is not None and value != []:
                many = value if isinstance(value, list) else [value]
                return frozenset(_id(one, f"{folder / name}:eos_token_id") for one in many)
        found = self._named("eos_token")
        if found is None:
            raise _wrong(
                "a stop token (eos_token_id or eos_token)",
                "none",
                folder / "config.json",
                "name one: without it every sample would run to the length limit",
            )
        return frozenset([found])

    def _pad_id(self, folder: Path) -> int:
        for name in _EOS_FILES:
            value = read_object(folder, name).get("pad_token_id")
            if value is not None and value != -1:  # -1 is how some families write none
                return _id(value, f"{folder / name}:pad_token_id")
        found = self._named("pad_token")
        return min(self.eos_ids) if found is None else found

    def _named(self, key: str) -> int | None:
        """Return the id of a token that `tokenizer_config.json` names by its text."""
        text = _content(self._config.get(key))
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
        return (read_text(file.parent, file.name) or "").encode()
    record = read_object(file.parent, file.name)
    return json.dumps({key: record.get(key) for key in ("eos_token_id", "pad_token_id")}).encode()


def _template(folder: Path) -> Template | InstarError:
    """Return the chat template of a folder, or the error to raise when a prompt needs it."""
    try:
        return read_template(folder)
    except InstarError as error:
        return error


def _made(text: str, file: Path) -> Any:
    from tokenizers import Tokenizer

    with library("a tokenizer the library can read", str(file), "export the tokenizer again"):
        made: Any = Tokenizer.from_str(text)
        made.no_truncation()
        made.no_padding()
        if getattr(made.model, "dropout", None):
            made.model.dropout = None  # a text has the same ids every time
    return made


def _encoding(tokenizer: Any, text: str, special: bool) -> Any:
    where, action = "Tasks:prompt", "use another text, or a tokenizer that knows its characters"
    try:
        with library("a text that the policy's tokenizer can encode", where, action):
            return tokenizer.encode(text, add_special_tokens=special)
    except ArtifactError as error:
        raise _refuse(error.expected, error.found, where, action) from error


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(_encoding(tokenizer, text, special).ids)


def _content(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _id(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ArtifactError(
            expected="a token id, or a list of them",
            found=repr(value)[:100],
            where=where,
            action="export the policy again",
        )
    return value


def _refuse(expected: str, found: str, where: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action=action)


def _wrong(expected: str, found: str, file: Path, action: str) -> ArtifactError:
    return ArtifactError(expected=expected, found=found, where=str(file), action=action)
