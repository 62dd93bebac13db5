"""From rollouts to score rows: decode the last action, extract the answer, verify it. What would be silently wrong is refused."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from instar.components.generated.item import is_generated
from instar.components.reward.recycle import read_cache, recycle, summary_by_kind, write_cache
from instar.components.reward.scoring import Completion, Scorer, Verifiers, open_scorer
from instar.components.reward.verifiers import Failed, Score, Verdict, chance
from instar.components.task_table import lookup, pools_of
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context, Metrics
from instar.errors import ContractError, RewardError
from instar.rows import RolloutRow, ScoreRow, TaskRow

if TYPE_CHECKING:
    from instar.components.reward.config import VerifyConfig
    from instar.components.reward.stage import Ins, Outs

MOST_PARTS = 16
"""Most parts of a reward that become metrics."""
_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Decode = Callable[[list[int]], str]


def score(ins: Ins, outs: Outs, config: VerifyConfig, ctx: Context) -> Metrics:
    """Verify the answers of all rollouts and write their scores. With `recycle`, also make tasks from the attempts."""
    rows, tokenizer = ins.rollouts.read(), load_tokenizer(ins.policy)
    wanted = {row.task_id for row in rows}
    attempted = lookup(pools_of(ins), wanted, ctx.resident)
    scores = score_rollouts(attempted, rows, tokenizer.decode, config, open_scorer(config, ins, ins.policy, ctx))
    outs.scores.write(scores)
    metrics = summary(attempted, rows, scores) | summary_by_kind(attempted, rows, scores)
    if config.functions:
        metrics |= summary_by_part(scores)
    if config.recycle is None:
        return metrics
    assert outs.generated is not None

    def text_of(rollout: RolloutRow) -> str:
        return tokenizer.decode(answer_tokens(rollout))

    cache, recycled = recycle(attempted, rows, scores, text_of, read_cache(ins.generated, ctx), config, ctx)
    write_cache(outs.generated, cache)
    return metrics | recycled


def score_rollouts(
    tasks: Mapping[str, TaskRow],
    rollouts: Sequence[RolloutRow],
    decode: Decode,
    config: VerifyConfig,
    scorer: Scorer | None = None,
) -> list[ScoreRow]:
    """Return one score per rollout, in order. Truncated rollouts are scored like any other.

    Raises `ContractError` for an unknown task. Raises `RewardError` without rollouts, and when the share of failed verdicts is
    above `failed_limit`.
    """
    if not rollouts:
        raise RewardError(expected="rollouts", found="none", where="reward.rollouts", action="check the rollout stage")
    completions = []
    for rollout in rollouts:
        task = tasks.get(rollout.task_id)
        if task is None:
            raise ContractError(
                expected="a task of the pool",
                found=f"'{rollout.task_id}'",
                where=f"Rollouts:task_id of {rollout.rollout_id}",
                action="give the reward stage the tasks that the rollout stage read",
            )
        tokens = answer_tokens(rollout)
        completions.append(
            Completion(
                task=task,
                text=decode(tokens),
                rollout_id=rollout.rollout_id,
                group_id=rollout.group_id,
                token_ids=tokens,
                truncated=rollout.truncated,
            )
        )
    scorer = scorer or Verifiers(config.style)
    verdicts = scorer.score(completions)
    scores = [
        _row(each.rollout_id, verdict, scorer.name(each.task), config)
        for each, verdict in zip(completions, verdicts, strict=True)
    ]
    check_coverage([rollout.rollout_id for rollout in rollouts], scores)
    _check_failures(scores, config.failed_limit)
    return scores


def answer_tokens(rollout: RolloutRow) -> list[int]:
    """Return the token ids of the last action, which holds the answer. Raises `ContractError` for a rollout without an action."""
    spans = [step for step in rollout.steps if step.role == "action"]
    if not spans or not 0 <= spans[-1].start <= spans[-1].end <= len(rollout.token_ids):
        raise ContractError(
            expected=f"an action span inside the {len(rollout.token_ids)} tokens",
            found=f"{spans[-1] if spans else 'no action'}",
            where=f"Rollouts:steps of {rollout.rollout_id}",
            action="fix the rollout stage",
        )
    return rollout.token_ids[spans[-1].start : spans[-1].end]


def check_coverage(rollout_ids: Sequence[str], scores: Sequence[ScoreRow]) -> None:
    """Raise `RewardError` unless every rollout has exactly one score and every score belongs to a rollout."""
    wanted, scored = Counter(rollout_ids), Counter(score.rollout_id for score in scores)
    if wanted != scored or any(count != 1 for count in wanted.values()):
        missing, surplus = sorted((wanted - scored).keys()), sorted((scored - wanted).keys())
        repeated = sorted(name for name, count in wanted.items() if count > 1)
        raise RewardError(
            expected=f"one score for each of {len(rollout_ids)} rollouts",
            found=f"missing {missing[:3]}, surplus {surplus[:3]}, repeated {repeated[:3]}",
            where="reward.scores",
            action="score the rollouts again",
        )


def summary(tasks: Mapping[str, TaskRow], rollouts: Sequence[RolloutRow], scores: Sequence[ScoreRow]) -> Metrics:
    """Return shares over all rollouts, and means over the scored rollouts of ordinary tasks. Without such, no means."""
    count = len(scores)
    lengths = [sum(s.end - s.start for s in r.steps if s.role == "action") for r in rollouts]
    metrics: Metrics = {
        "num_rollouts": count,
        "failed_share": sum(s.status == "failed" for s in scores) / count,
        "abstained_share": sum(s.status == "abstained" for s in scores) / count,
        "truncated_share": sum(r.truncated for r in rollouts) / count,
        "length_mean": sum(lengths) / count,
    }
    scored = [
        (r, s)
        for r, s in zip(rollouts, scores, strict=True)
        if s.status == "scored" and not is_generated(tasks[r.task_id])
    ]
    if scored:
        metrics |= {
            "accuracy": math.fsum(s.correct or 0.0 for _, s in scored) / len(scored),
            "format_rate": math.fsum(s.format_ok or 0.0 for _, s in scored) / len(scored),
            "reward_mean": math.fsum(s.reward or 0.0 for _, s in scored) / len(scored),
            "chance_mean": math.fsum(chance(tasks[r.task_id]) for r, _ in scored) / len(scored),
        }
    return metrics


def summary_by_part(scores: Sequence[ScoreRow]) -> Metrics:
    """Return the mean of every named part of the user's reward, over the scores that have it.

    What a function returns as `correct` or `reward` is left out, because it is the accuracy or the part itself. A function that
    names parts by the row could have very many, and names that no tracking server takes. So only names of ordinary characters
    are taken, and at most `MOST_PARTS` of them.
    """
    values: dict[str, list[float]] = {}
    for row in scores:
        for name, value in row.components.items():
            function, _, key = name.rpartition(".")
            repeats = key == "correct" or (function and key == "reward")
            if _PART.fullmatch(name) and not repeats:
                values.setdefault(name, []).append(value)
    return {f"part/{name}": math.fsum(values[name]) / len(values[name]) for name in sorted(values)[:MOST_PARTS]}


def _row(rollout_id: str, verdict: Verdict, scorer: str, config: VerifyConfig) -> ScoreRow:
    if not isinstance(verdict, Score):
        status = "failed" if isinstance(verdict, Failed) else "abstained"
        return ScoreRow(
            rollout_id=rollout_id,
            correct=None,
            format_ok=None,
            reward=None,
            components={},
            status=status,
            reason=verdict.reason,
            scorer=scorer,
        )
    paid = config.format_reward if verdict.format_ok and verdict.correct < 1.0 else 0.0
    parts = {"correct": verdict.correct, "format": paid} if verdict.reward is None else {"correct": verdict.correct}
    return ScoreRow(
        rollout_id=rollout_id,
        correct=verdict.correct,
        format_ok=float(verdict.format_ok),
        reward=verdict.correct + paid if verdict.reward is None else verdict.reward,
        components={**verdict.components, **parts},
        status="scored",
        reason="",
        scorer=scorer,
    )


def _check_failures(scores: Sequence[ScoreRow], limit: float) -> None:
    reasons = Counter(score.reason for score in scores if score.status == "failed")
    share = reasons.total() / len(scores)
    if share > limit:
        reason, count = reasons.most_common(1)[0]
        raise RewardError(
            expected=f"at most {limit:.0%} failed verdicts",
            found=f"{share:.0%} of {len(scores)}; most often ({count}x) {reason}",
            where="reward.scores",
            action="fix the verifier or the references, because a failed verdict is not a wrong answer",
        )
