"""Attempts at toy tasks, as rollouts and scores: groups with chosen answers, and simulated ones at a given solve rate."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instar.components.reward.config import RecycleConfig, VerifyConfig
from instar.components.reward.recycle import Cache, recycle
from instar.components.reward.score import answer_tokens, score_rollouts
from instar.contract import Context, Metrics
from instar.rows import RolloutRow, ScoreRow, Step, TaskRow

TERSE = VerifyConfig(style="line", recycle=RecycleConfig(wording="terse"))
FEW_SHOT = VerifyConfig(style="line", recycle=RecycleConfig(wording="few_shot"))
WORDS = VerifyConfig(style="boxed", recycle=RecycleConfig())


def context(step: int = 0, evolution: str = "evo") -> Context:
    """Return a context of the reward stage."""
    return Context(evolution=evolution, step=step, stage="reward", scratch=Path())


def task(number: int, arm: str = "sort", answer: str = "12", **changes: object) -> TaskRow:
    """Return a task `21<number>=` with a bare question in words beside it."""
    row = TaskRow(
        task_id=f"{arm}/train/{number:05d}",
        arm=arm,
        domain="sorting",
        level=3.0,
        split="train",
        prompt=f"21{number}=",
        verifier="exact",
        reference=json.dumps({"answer": answer, "chance": 0.125}),
        features=json.dumps({"question": f"Sort 2, 1 and {number}."}),
        content_hash="0" * 64,
        generator="g",
        seed=number,
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def decode(ids: list[int]) -> str:
    """Return the text of code points."""
    return "".join(map(chr, ids))


def text_of(rollout: RolloutRow) -> str:
    """Return what the policy wrote."""
    return decode(answer_tokens(rollout))


def rollout(of: TaskRow, group: str, number: int, text: str, truncated: bool = False, policy: str = "p") -> RolloutRow:
    """Return one attempt whose tokens are code points."""
    start, end = len(of.prompt), len(of.prompt) + len(text)
    return RolloutRow(
        rollout_id=f"{group}/{number}",
        task_id=of.task_id,
        arm=of.arm,
        kind="text",
        group_id=group,
        policy=policy,
        token_ids=[ord(c) for c in of.prompt + text],
        behaviour_logprobs=[-0.5] * len(text),
        steps=[Step(role="prompt", start=0, end=start), Step(role="action", start=start, end=end)],
        truncated=truncated,
        seed=0,
    )


@dataclasses.dataclass
class Attempted:
    """The rollouts of one step, their tasks, and what the rules say of them."""

    tasks: dict[str, TaskRow]
    rollouts: list[RolloutRow]
    config: VerifyConfig = TERSE

    @property
    def scores(self) -> list[ScoreRow]:
        """Return the verdicts of the verifiers."""
        return score_rollouts(self.tasks, self.rollouts, decode, self.config)

    def recycle(self, cache: Cache | None = None, step: int = 0, evolution: str = "evo") -> tuple[Cache, Metrics]:
        """Return the cache after this step and its metrics."""
        found = self.scores
        return recycle(
            self.tasks, self.rollouts, found, text_of, cache or Cache(), self.config, context(step, evolution)
        )


def attempts(pairs: Sequence[tuple[TaskRow, Sequence[str]]], config: VerifyConfig = TERSE) -> Attempted:
    """Return a step in which every task was attempted with the given texts, one group per pair."""
    rows = [
        rollout(of, f"g{place:03d}", number, text)
        for place, (of, texts) in enumerate(pairs)
        for number, text in enumerate(texts)
    ]
    return Attempted({of.task_id: of for of, _ in pairs}, rows, config)


def simulated(
    rate: float, seed: int, config: VerifyConfig = TERSE, num: int = 64, size: int = 8, first: int = 0, arms: int = 1
) -> Attempted:
    """Return `num` groups of `size` attempts whose solve probabilities are Beta(2 rate, 2 (1 - rate)) distributed.

    With several arms the probabilities are sorted, so that the first arm is the hardest. Wrong answers all differ.
    """
    rng = np.random.default_rng(seed)
    chances = rng.beta(2 * rate, 2 * (1 - rate), num)
    chances = np.sort(chances) if arms > 1 else chances
    bare = {"features": "{}"} if config.recycle and config.recycle.wording == "terse" else {}
    pairs = []
    for place, chance in enumerate(chances):
        of = task(first + place, arm=f"arm{place * arms // num}", **bare)
        right = rng.random(size) < chance
        texts = ["12" if good else f"9{number}" for number, good in enumerate(right)]
        pairs.append((of, [_boxed(text) for text in texts] if config.style == "boxed" else texts))
    return attempts(pairs, config=config)


def _boxed(answer: str) -> str:
    return f"Let me see. \\boxed{{{answer}}}"
