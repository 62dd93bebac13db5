"""Greedy questions to a policy, and the probability of the token that decided its answer."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite

from instar.components.reward.extract import locate
from instar.components.rollout.engine import Engine, Request, Sample
from instar.components.tokenizer import TextTokenizer

REQUESTS = 256
"""How many requests the engine gets at once. A heartbeat follows each batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A greedy reply: its text, and its tokens with their log-probabilities."""

    text: str
    sample: Sample

    @property
    def num_tokens(self) -> int:
        """Number of action tokens."""
        return len(self.sample.token_ids)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """An engine that serves one policy, its tokenizer, and the strings that end a reply."""

    engine: Engine
    tokenizer: TextTokenizer
    stop: tuple[str, ...]
    heartbeat: Callable[[str, Mapping[str, float]], None]

    def greedy(self, prompts: Sequence[tuple[str, str]], max_new_tokens: int, what: str) -> list[Reply]:
        """Return the likeliest reply to every pair of prompt and form, in order. `what` is their name in heartbeats."""
        out: list[Reply] = []
        for start in range(0, len(prompts), REQUESTS):
            requests = [
                Request(
                    request_id=f"{what}/{start + i}", prompt_ids=self.tokenizer.encode_prompt(text, form), seeds=[0]
                )
                for i, (text, form) in enumerate(prompts[start : start + REQUESTS])
            ]
            replies = self.engine.sample(requests, max_new_tokens=max_new_tokens, temperature=0.0, stop=self.stop)
            out += [Reply(text=self.tokenizer.decode(s.token_ids), sample=s) for (s,) in replies]
            self.heartbeat(f"{len(out)} {what}", {})
        return out

    def probability(self, reply: Reply, style: str) -> float | None:
        """Return the probability of the token that begins the answer in `reply`, or None without answer or log-probabilities.

        A verdict is one word, for example Yes or No, and its first token decides which one.
        """
        answer, ids = locate(reply.text, style), reply.sample.token_ids
        if answer is None or len(reply.sample.logprobs) != len(ids):
            return None
        first = bisect_right(range(len(ids) + 1), answer[0], key=lambda n: len(self.tokenizer.decode(ids[:n]))) - 1
        value = reply.sample.logprobs[min(first, len(ids) - 1)]
        return exp(min(0.0, value)) if isfinite(value) else None
