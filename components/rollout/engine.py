"""What an engine is: it serves one policy, named by a digest, and turns prompts into samples.

Two checks find an engine that serves old weights. The engine must report the digest of the policy that was asked for. And when the
digest changes, the log-probability of a few fixed prompts (the canary) must change too. `engines` opens an engine.
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
    """The action tokens, with the log-probability that each had when it was drawn. The token that ended the sample is included."""

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


class Engine(Protocol):
    """Anything that samples. A sample depends on weights, prompt, seed and temperature, but not on its neighbours."""

    @property
    def digest(self) -> str:
        """Digest of the weights that are served now."""
        ...

    def sample(
        self, requests: Sequence[Request], *, max_new_tokens: int, temperature: float, stop: tuple[str, ...] = ()
    ) -> list[list[Sample]]:
        """Return the samples of each request, in order. Temperature 0 takes the likeliest token.

        A sample ends with a stop token of the policy. It also ends with the first token after which the decoded action text
        contains one of the strings `stop`. In both cases that token stays and `truncated` is False. A sample without such an end
        is cut at `max_new_tokens`. Special tokens have no text.

        Log-probabilities are those of the distribution that is sampled from. At temperature 0 they are those at temperature 1.
        """
        ...


def rest(engine: Engine) -> None:
    """Let the engine release device memory for the update, if it can. It takes the memory back for its next sample."""
    sleep = getattr(engine, "rest", None)
    if sleep is not None:
        sleep()


def facts(engine: Engine) -> dict[str, float]:
    """Return what an engine says about itself for the ledger, for example which code decodes, because that decides rounding."""
    say = getattr(engine, "facts", dict)
    numbers: dict[str, float] = say()
    return numbers


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
    """Return the sum of the log-probabilities of samples after fixed prompts. A prompt is the first ids of the vocabulary.

    The samples are drawn at a high temperature and after several prompts. Where a policy is certain, the log-probability of its
    choice is 0 up to rounding. That number could stay the same although every logit changed.
    """
    lengths = [max(1, min(n, vocab_size)) for n in _CANARY_PROMPTS]
    requests = [Request(request_id="canary", prompt_ids=list(range(n)), seeds=[n]) for n in lengths]
    groups = engine.sample(requests, max_new_tokens=_CANARY_TOKENS, temperature=_CANARY_TEMPERATURE)
    return sum(logprob for samples in groups for sample in samples for logprob in sample.logprobs)


def check_canary(ctx: Context, policy: Policy, value: float) -> None:
    """Raise `EngineError` when the digest changed since the last rollout of this process, but the canary did not."""
    before = ctx.resident.get(CANARY)
    ctx.resident.put(CANARY, None, (policy.digest, value))
    if before is not None and before[0] != policy.digest and before[1] == value:
        raise EngineError(
            expected=f"a canary log-probability other than {value!r} after the policy changed",
            found="the same value",
            where=f"rollout.canary_logprob, policy {before[0]} to {policy.digest}",
            action="check the engine and the update: the engine samples from old weights, or the update changed no weight",
        )
