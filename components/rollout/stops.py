"""Stop strings: the text of an answer, not a token, says that the answer ends.

A sample ends with the first token after which the decoded action contains one of the strings. A stop string need not begin or
end at the border of a token. For example, " 7\\n" may be one token and "\\n\\n" another. So all action ids are decoded, and the
text is searched.

Decoding every row after every token would cost more than the token itself. `candidates` lists the tokens that can complete a stop
string at all, for example the few tokens that contain a line break. A row is decoded only after it drew one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from instar.components.tokenizer import TextTokenizer

_BROKEN = "\ufffd"  # what decoding gives for bytes that are not a whole character yet


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """The stop strings, the decoder, and the ids of the tokens that can complete a string."""

    texts: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]
    candidates: tuple[int, ...]

    def ends(self, ids: Sequence[int]) -> bool:
        """Return whether the text of the action `ids` contains a stop string."""
        return holds(self.decode(ids), self.texts)


def holds(text: str, stop: Sequence[str]) -> bool:
    """Return whether any of the strings is in `text`."""
    return any(string in text for string in stop)


def stop_rule(stop: tuple[str, ...], tokenizer: TextTokenizer, vocab_size: int) -> StopRule | None:
    """Return the rule for these strings, or None without strings. `vocab_size` is the width of the logits."""
    if not stop:
        return None
    endings = frozenset(string[-1] for string in stop)
    return StopRule(texts=stop, decode=tokenizer.decode, candidates=_candidates(endings, tokenizer, vocab_size))


@lru_cache(maxsize=16)
def _candidates(endings: frozenset[str], tokenizer: TextTokenizer, vocab_size: int) -> tuple[int, ...]:
    """Return the tokens whose text has the last character of a stop string, or bytes that may complete that character.

    A token is decoded alone and after another token. Some decoders write a space between two tokens, or drop one in front.
    """
    candidates: list[int] = []
    before = tokenizer.encode("0")[-1:] or [0]
    head = tokenizer.decode(before)
    wanted = endings | {_BROKEN}
    for token in range(min(vocab_size, tokenizer.vocab_size)):
        text = tokenizer.decode([*before, token])
        added = text[len(head) :] if text.startswith(head) else text
        if any(c in added for c in wanted) or not wanted.isdisjoint(tokenizer.decode([token])):
            candidates.append(token)
    return tuple(candidates)
