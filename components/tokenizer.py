"""Text to token ids and back, on the `tokenizers` library alone.

Prompts are encoded with the post-processor that `tokenizer.json` declares (a start token where the policy was trained
with one), and with no other special token. Truncation and padding saved in the file are switched off: a prompt is never
cut silently. Token ids are the record; `decode` gives a view of them and drops special tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from instar.artifact import Policy
from instar.errors import ArtifactError

_EOS_FILES = ("generation_config.json", "config.json")


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
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.eos_ids: frozenset[int] = self._eos_ids(folder)
        self.pad_id: int = self._pad_id(folder)
        probe = self.encode("0")
        if len(probe) > 1 and probe[-1] in self.eos_ids:
            raise _wrong("prompts left open", f"a post-processor that appends stop id {probe[-1]}", file, "remove it")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a prompt, including what the post-processor adds."""
        return list(self._tokenizer.encode(text).ids)

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
    del digest  # part of the cache key: a folder that is written again has another digest
    return TextTokenizer(path)


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _wrong(expected: str, found: str, file: Path, action: str) -> ArtifactError:
    return ArtifactError(expected=expected, found=found, where=str(file), action=action)
