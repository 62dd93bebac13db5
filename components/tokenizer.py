"""Text to token ids and back. Only the library `tokenizers` is used.

The text of a task never becomes a control token. Control tokens are special tokens, markers of the chat template and stop tokens. A
prompt that spells one, for example `</s>`, is encoded as those characters.

- A prompt of form `text` is encoded with the post-processor in `tokenizer.json`, which may add a start token. No other control
  token is added.
- A prompt of form `chat` is put into the policy's chat template. The whole has the ids that transformers gives it.
- A prompt of form `messages` is a conversation with tools as JSON. The template renders it, with the ids of transformers.

Truncation and padding settings of the file are switched off, so a prompt is never cut silently. Token ids are the record. `decode`
gives a text for reading and drops special tokens.
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
from instar.components.conversation import Conversation, shown
from instar.components.conversation import read as read_conversation
from instar.components.policy_files import library, read_object, read_text
from instar.errors import ArtifactError, ContractError, InstarError
from instar.plain import brief

FORMS = ("text", "chat", "messages")
_EOS_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True, kw_only=True)
class _Chat:
    """What goes around a message: opening ids, text before, the message, text after, closing ids.

    `opening` are the ids up to the last control token before the message. `closing` are the ids from the first control token after
    it. `before` and `after` are the text between these ids and the message. `marks` are all control tokens of the template.
    """

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
        """Return the ids of the rendered text. A control token that the message spells is encoded as its characters."""
        rendered = f"{self.frame.head}{message}{self.frame.tail}"
        if self.template.render(message) != rendered:
            raise _refuse(
                "a template that puts the same text around every message",
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
    """A tokenizer with the stop ids and the padding id of one policy folder.

    `eos_ids` come from the first of these files that has some: `generation_config.json`, `config.json`, `tokenizer_config.json`.
    `pad_id` comes from the same files. Without one it is the smallest stop id, which is safe because rows are masked by length.
    """

    def __init__(self, folder: Path) -> None:
        file, text = folder / "tokenizer.json", read_text(folder, "tokenizer.json")
        if text is None:
            raise _wrong("a tokenizer.json", "no such file", file, "export the policy with its fast tokenizer")
        self._file, self._text = file, text
        self._tokenizer: Any = _parsed(text, file)
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
            raise _wrong(
                "prompts that do not end with a stop token",
                f"a post-processor that appends stop id {probe[-1]}",
                file,
                "remove that token from the post-processor",
            )

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, with those that the post-processor adds. There is no other control token.

        Raises `ContractError` for a text that the tokenizer cannot encode, and for one that it encodes with a control token.
        """
        ids = _encode(self._plain, text, True)
        self._check(ids, self._control, self._due)
        return ids

    def encode_answer(self, text: str) -> list[int]:
        """Return the ids of a completion. Nothing is added, and a control token that the text spells is encoded as its characters.

        Raises `ContractError` for a text that the tokenizer cannot encode.
        """
        ids = _encode(self._plain, text, False)
        self._check(ids, self._control, [])
        return ids

    def encode_prompt(self, prompt: str, form: str) -> list[int]:
        """Return the ids of a task's prompt. Form `text` is encoded as `encode` does, the others by the chat template.

        Raises `ArtifactError` when the policy has no chat template. Raises `ContractError` for another form, for a template that
        changes messages, and for a prompt whose blanks a template would remove.
        """
        if form == "text":
            return self.encode(prompt)
        if form == "messages":
            return self._conversation(read_conversation(prompt))
        if form != "chat":
            raise _refuse(f"one of the forms {', '.join(FORMS)}", repr(form), "Tasks:form", "correct the task's form")
        chat = self._chat
        if chat.frame.trims and prompt != prompt.strip():
            raise _refuse("a prompt without blanks at its ends", repr(prompt[:40]), "Tasks:prompt", "strip the prompt")
        ids = chat.ids(prompt)
        self._check(ids, chat.control, chat.marks)
        return ids

    def encode_exchange(self, prompt: str, form: str, completion: str) -> list[int]:
        """Return the ids of a prompt with its completion, as a model reads them that scores both.

        Of form `text` they are one text. Otherwise the completion is the last message, and the chat template renders all messages.
        The errors are those of `encode_prompt`.
        """
        if form == "text":
            return self.encode(prompt + completion)
        asked = read_conversation(prompt) if form == "messages" else None
        messages = asked.messages if asked is not None else [{"role": "user", "content": prompt}]
        answered = [*messages, {"role": "assistant", "content": completion}]
        return self._conversation(Conversation(messages=answered, tools=asked.tools if asked else None, asks=False))

    def _conversation(self, conversation: Conversation) -> list[int]:
        """Return the ids of a rendered conversation. A control token that a message spells is encoded as its characters."""
        if isinstance(self._template, InstarError):
            raise self._template
        rendered = self._template.converse(conversation)
        encoding = _encoding(self._whole, rendered, False)
        names = self._tokenizer.get_added_tokens_decoder()
        tokens = {names[i].content for i in self._control_ids(encoding.ids)}
        if not any(token in text for text in conversation.texts() for token in tokens):
            return list(encoding.ids)
        hidden, originals = conversation.hidden(tokens)
        frame_text = self._template.converse(hidden)
        if shown(frame_text, originals) != rendered:
            raise _refuse(
                "a template that does not look for control tokens in messages",
                f"another text without {brief(originals[:3])}",
                "Tasks:prompt",
                "remove these tokens from the messages",
            )
        return self._spelled(frame_text, originals)

    def _spelled(self, frame_text: str, originals: list[str]) -> list[int]:
        """Return the ids of a rendered text with placeholders. What is between two control tokens is encoded without any."""
        encoding = _encoding(self._whole, frame_text, False)
        control = self._control_ids(encoding.ids)
        plain = self._plain if control == self._control else self._ordinary(control)
        ids, start = list[int](), 0
        marks = [
            (number, *span) for number, span in zip(encoding.ids, encoding.offsets, strict=True) if number in control
        ]
        for number, first, end in [*marks, (-1, len(frame_text), len(frame_text))]:
            ids += _encode(plain, shown(frame_text[start:first], originals), False)
            ids += [number] if number >= 0 else []
            start = end
        self._check(ids, control, [number for number, _, _ in marks])
        return ids

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer that reads control tokens as such."""
        return _parsed(self._text, self._file)

    @cached_property
    def _chat(self) -> _Chat:
        """Render, split and encode the chat template, on first use."""
        if isinstance(self._template, InstarError):
            raise self._template
        around, whole = frame(self._template), self._whole
        head, tail = (_encoding(whole, text, False) for text in (around.head, around.tail))
        control = self._control_ids((*head.ids, *tail.ids))
        end = max((n + 1 for n, i in enumerate(head.ids) if i in control), default=0)
        start = next((n for n, i in enumerate(tail.ids) if i in control), len(tail.ids))
        return _Chat(
            template=self._template,
            frame=around,
            whole=whole,
            plain=self._plain if control == self._control else self._ordinary(control),
            control=control,
            opening=list(head.ids[:end]),
            before=around.head[head.offsets[end - 1][1] :] if end else around.head,
            after=around.tail[: tail.offsets[start][0]] if start < len(tail.ids) else around.tail,
            closing=list(tail.ids[start:]),
        )

    def _ordinary(self, control: frozenset[int]) -> Any:
        """Return a tokenizer that reads control tokens as ordinary text.

        It is the tokenizer that decodes, if the special tokens of the file are exactly the control tokens. Otherwise it is a copy.
        """
        plain = self._tokenizer
        if control != {number for number, token in plain.get_added_tokens_decoder().items() if token.special}:
            spec = json.loads(self._text)
            added = [token | {"special": token["id"] in control} for token in spec["added_tokens"]]
            plain = _parsed(json.dumps(spec | {"added_tokens": added}), self._file)
        plain.encode_special_tokens = True
        return plain

    def _control_ids(self, rendered: Iterable[int]) -> frozenset[int]:
        """Return the ids of the added tokens that structure a conversation, whatever the file calls them.

        These are the special tokens, the stop tokens, and the tokens that `tokenizer_config.json` names. They are also the
        signs that the chat template writes or that are in `rendered`. A sign is a token that is neither a plain word nor blank.
        """
        source = self._template.source if isinstance(self._template, Template) else ""
        named, used = {_content(v) for k, v in self._config.items() if k.endswith("_token")}, {*rendered}
        control = set()
        for number, token in self._tokenizer.get_added_tokens_decoder().items():
            text = token.content
            sign = bool(text.strip()) and not text.isalnum() and (text in source or number in used)
            if token.special or number in self.eos_ids or text in named or sign:
                control.add(number)
        return frozenset(control)

    def _controls(self, ids: Iterable[int], control: frozenset[int]) -> list[int]:
        return [i for i in ids if i in control and i != self._unknown]

    def _unknown_id(self) -> int | None:
        """Return the id that stands for unknown characters, or None when there is none or it is a stop token."""
        from tokenizers import models

        model = self._tokenizer.model
        text = getattr(model, "unk_token", None)
        unknown: int | None = None if text is None else self._tokenizer.token_to_id(text)
        if isinstance(model, models.Unigram):  # the library does not expose its id, so it is read from the file
            unknown = json.loads(self._text)["model"].get("unk_id")
        return None if unknown in self.eos_ids else unknown

    def _check(self, ids: Sequence[int], control: frozenset[int], due: Sequence[int]) -> None:
        surplus = Counter(self._controls(ids, control)) - Counter(due)
        if surplus:
            raise _refuse("no control token in a prompt", f"ids {sorted(surplus)}", "Tasks:prompt", "reword the prompt")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens. To encode that text again may give other ids."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _eos_ids(self, folder: Path) -> frozenset[int]:
        for name in _EOS_FILES:
            value = read_object(folder, name).get("eos_token_id")
            if value is not None and value != []:
                many = value if isinstance(value, list) else [value]
                return frozenset(_id(one, f"{folder / name}:eos_token_id") for one in many)
        stop = self._named("eos_token")
        if stop is None:
            raise _wrong(
                "a stop token (eos_token_id or eos_token)",
                "none",
                folder / "config.json",
                "name a stop token, because without one every sample would run to the length limit",
            )
        return frozenset([stop])

    def _pad_id(self, folder: Path) -> int:
        for name in _EOS_FILES:
            value = read_object(folder, name).get("pad_token_id")
            if value is not None and value != -1:  # some families write -1 for no padding token
                return _id(value, f"{folder / name}:pad_token_id")
        padding = self._named("pad_token")
        return min(self.eos_ids) if padding is None else padding

    def _named(self, key: str) -> int | None:
        """Return the id of the token that `tokenizer_config.json` names under `key`, or None."""
        text = _content(self._config.get(key))
        return None if text is None else self._tokenizer.token_to_id(text)


def load_tokenizer(policy: Policy) -> TextTokenizer:
    """Return the tokenizer of a policy folder. It is read once per digest and path. Raises `ArtifactError` for a broken folder."""
    return _load(policy.path, policy.digest)


@lru_cache(maxsize=8)
def _load(path: Path, digest: str) -> TextTokenizer:
    """Return the tokenizer of a folder. Policies of one evolution have equal files, so they share one tokenizer."""
    del digest  # it is part of the cache key, because a folder that is written again has another digest
    files = [path / name for name in _FILES if (path / name).is_file()]
    key = hashlib.sha256(b"\0".join(file.name.encode() + b"\0" + _read(file) for file in files)).hexdigest()
    if key not in _SHARED:
        while len(_SHARED) >= 4:
            del _SHARED[next(iter(_SHARED))]
        _SHARED[key] = TextTokenizer(path)
        with contextlib.suppress(InstarError):
            # Rendered now, because the folder may be gone when a prompt needs it. An error is raised again then.
            _ = _SHARED[key]._chat
    return _SHARED[key]


_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "chat_template.jinja")
_SHARED: dict[str, TextTokenizer] = {}


def _read(file: Path) -> bytes:
    """Return the part of a file on which the tokenizer depends. Of `config.json` these are the stop ids and the padding id."""
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


def _parsed(text: str, file: Path) -> Any:
    from tokenizers import Tokenizer

    with library("a tokenizer that the library tokenizers can read", str(file), "export the tokenizer again"):
        tokenizer: Any = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # a text must have the same ids every time
    return tokenizer


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
