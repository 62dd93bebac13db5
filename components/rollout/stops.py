"""Stop strings: where the text of an answer, not its tokens, says that it is over.

A sample ends with the first token after which the decoded action holds one of the strings. Tokens do not respect the
borders of strings (" 7\\n" may be one token, "\\n\\n" another), so the text decides: all action ids are decoded and searched.
Decoding every row after every token would cost more than the token. `candidates` marks the tokens that can complete a
string at all, a handful of the vocabulary for a line break, and only rows that drew one of those are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instar.components.tokenizer import TextTokenizer

_BROKEN = "\ufffd"  # what decoding gives for bytes that do not make a character yet


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """The strings, the decoder, and the ids of the tokens that may complete a string."""

    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]
    candidates: tuple[int, ...]

    def ends(self, ids: Sequence[int]) -> bool:
        """Return whether the text of the action `ids` holds a stop string."""
        return holds(self.decode(ids), self.texts)


def holds(text: str, stop: Sequence[str]) -> bool:
    """Return whether any of the strings is in `text`."""
    return any(string in text for string in stop)


def stop_rule(stop: tuple[str, ...], tokenizer: TextTokenizer, vocab_size: int) -> StopRule | None:
    """Return the rule of these strings, or None for no string. `vocab_size` is the width of the logits."""
    if not stop:
        return None
    last = frozenset(string[-1] for string in stop)
    return StopRule(texts=stop, decode=tokenizer.decode, candidates=_candidates(last, tokenizer, vocab_size))


@lru_cache(maxsize=16)
def _candidates(last: frozenset[str], tokenizer: TextTokenizer, vocab_size: int) -> tuple[int, ...]:
    """Return the tokens that add the last character of a stop string, or bytes that may finish one.

    A token is decoded behind another one as well: some decoders write a space between tokens, or drop one in front.
    """
    found: list[int] = []
    before = tokenizer.encode("0")[-1:] or [0]
    head = tokenizer.decode(before)
    wanted = last | {_BROKEN}
    for token in range(min(vocab_size, tokenizer.vocab_size)):
        text = tokenizer.decode([*before, token])
        added = text[len(head) :] if text.startswith(head) else text
        if any(c in added for c in wanted) or not wanted.isdisjoint(tokenizer.decode([token])):
            found.append(token)
    return tuple(found)
