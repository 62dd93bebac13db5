"""What an engine is: it serves one policy, named by digest, and turns prompts into samples.

Two checks keep an engine honest. It must report the digest that was asked for, and the log-probability of a fixed prompt must
move when the digest moves. `instar.components.rollout.engines` opens one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from instar.artifact import Policy
from instar.components.policy_io import CANARY
from instar.contract import Context
from instar.errors import EngineError

_CANARY_PROMPTS, _CANARY_TOKENS, _CANARY_TEMPERATURE = (2, 3, 5, 8), 4, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt and one seed per wanted sample."""

    request_id: str
    prompt_ids: list[int]
    seeds: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Action tokens, the one that ended the sample included, with the log-probability each had when it was chosen."""

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


class Engine(Protocol):
    """Anything that samples. A sample is a function of weights, prompt, seed and temperature, not of its neighbours."""

    @property
    def digest(self) -> str:
        """Digest of the weights that are served now."""
        ...

    def sample(
        self, requests: Sequence[Request], *, max_new_tokens: int, temperature: float, stop: tuple[str, ...] = ()
    ) -> list[list[Sample]]:
        """Return the samples of each request, in order. Temperature 0 takes the likeliest token.

        A sample ends with a stop token of the policy, or with the first token after which the decoded action text holds
        one of the strings `stop`; that token is kept and `truncated` is False. Special tokens have no text. Otherwise
        it is cut at `max_new_tokens`. Log-probabilities belong to the distribution sampled from; at temperature 0 to the
        untempered one.
        """
        ...


def rest(engine: Engine) -> None:
    """Let an engine that can give its device's memory to the update do so; it wakes for its next sample."""
    sleep = getattr(engine, "rest", None)
    if sleep is not None:
        sleep()


def facts(engine: Engine) -> dict[str, float]:
    """Return what an engine says of itself for the ledger: which code decodes decides roundings."""
    said = getattr(engine, "facts", dict)
    found: dict[str, float] = said()
    return found


def check_served(engine: Engine, policy: Policy) -> None:
    """Raise `EngineError` unless the engine serves exactly `policy`."""
    if engine.digest != policy.digest:
        raise EngineError(
            expected=f"policy {policy.digest}",
            found=f"policy {engine.digest}",
            where=f"engine {type(engine).__name__}",
            action="reload the weights into the engine before sampling",
        )


def canary_logprob(engine: Engine, vocab_size: int) -> float:
    """Return the sum of log-probabilities of samples after fixed prompts, the first ids of the vocabulary.

    Several prompts, and drawn hot: where a policy is sure, the log-probability of its choice is 0 up to rounding, and stays the
    same number while every logit moves.
    """
    lengths = [max(1, min(n, vocab_size)) for n in _CANARY_PROMPTS]
    requests = [Request(request_id="canary", prompt_ids=list(range(n)), seeds=[n]) for n in lengths]
    groups = engine.sample(requests, max_new_tokens=_CANARY_TOKENS, temperature=_CANARY_TEMPERATURE)
    return sum(logprob for samples in groups for sample in samples for logprob in sample.logprobs)


def check_canary(ctx: Context, policy: Policy, value: float) -> None:
    """Raise `EngineError` when the digest moved since this process' last rollout and the canary did not."""
    before = ctx.resident.get(CANARY)
    ctx.resident.put(CANARY, None, (policy.digest, value))
    if before is not None and before[0] != policy.digest and before[1] == value:
        raise EngineError(
            expected=f"a canary log-probability other than {value!r} after the policy changed",
            found="the same value",
            where=f"rollout.canary_logprob, policy {before[0]} to {policy.digest}",
            action="the engine samples from old weights, or the update changed none: check both",
        )
