"""How well the policy judges answers and corrects its own: first the anchors, then the gate of reflection, then its own answers.

`summary["judge"]` gets the quality on the anchors and the drift against the baseline. Every split gets `own`, which rates the first
verdicts on the greedy answers. With reflection it also gets `reflected`, the score after reflection beside that of the same greedy
answers before. `score` never changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from instar.artifact import Evaluation, Tasks
from instar.components.evaluate.asking import Asker
from instar.components.evaluate.attempts import choose_tasks
from instar.components.evaluate.intervals import Interval, stratified_mean
from instar.components.evaluate.judge import DRIFT, ask_anchors, choose_anchors, drift, judge_summary, reply_row
from instar.components.evaluate.quality import own_quality
from instar.components.evaluate.reflect import Dialogue, begin, gate, judge, on_gain, opinion, reflect
from instar.components.evaluate.summary import arrays
from instar.components.reward.verifiers import Score, verify
from instar.contract import Context
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.config import AnswerConfig

TRIAL = "val"
"""The pool on which reflection must gain something before it may change an answer."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """The anchors, the verdicts on them and their quality, the gate of reflection (None without one), and the dialogues."""

    anchors: list[TaskRow]
    verdicts: list[EvalRow]
    quality: dict[str, Any]
    gate: dict[str, Any] | None
    dialogues: list[Dialogue]
    plain: Mapping[str, float | None] = field(default_factory=dict)
    """Task -> score of its greedy answer."""
    after: Mapping[str, EvalRow] = field(default_factory=dict)
    """Task -> its answer after reflection, as sample -2. Behind a closed gate this is the greedy answer itself."""

    @property
    def rows(self) -> list[EvalRow]:
        """Return the rows that the evaluation stores beside those of ordinary answers."""
        return [*self.verdicts, *self.after.values()]


def run(
    tasks: Sequence[TaskRow],
    rows: Sequence[EvalRow],
    pools: Mapping[str, Tasks],
    asker: Asker,
    config: AnswerConfig,
    ctx: Context,
) -> Judging:
    """Ask the anchors. Then let the policy judge its greedy answers in `rows`, or reflect on them where the gate is open."""
    assert config.judge is not None
    anchors = choose_anchors(pools, config.judge, ctx)
    verdicts = ask_anchors(anchors, asker, config)
    quality = judge_summary(verdicts, anchors, config)
    by_task = {row.task_id: row for row in rows if row.sample == -1}
    answered = [(task, by_task[task.task_id]) for task in tasks if task.task_id in by_task]
    dialogues = [begin(task, row, config.style) for task, row in answered]
    decision, done = None, dict[str, Dialogue]()
    if config.reflect is not None:
        decision = gate(quality, config.reflect)
        if decision["open"] and config.reflect.mode == "gated":
            gain, done = trial(answered, pools, asker, config, ctx)
            decision = on_gain(decision, gain, config.reflect)
    if decision is not None and decision["open"]:
        reflect([d for d in dialogues if d.task.task_id not in done], asker, config)
        dialogues = [done.get(d.task.task_id, d) for d in dialogues]
    else:
        judge(dialogues, asker, config, counted=False)
    return Judging(
        anchors=anchors,
        verdicts=verdicts,
        quality=quality,
        gate=decision,
        dialogues=dialogues,
        plain={row.task_id: row.score for _, row in answered},
        after={d.task.task_id: _row(d, config.style) for d in dialogues} if decision is not None else {},
    )


def trial(
    answered: Sequence[tuple[TaskRow, EvalRow]],
    pools: Mapping[str, Tasks],
    asker: Asker,
    config: AnswerConfig,
    ctx: Context,
) -> tuple[Interval, dict[str, Dialogue]]:
    """Reflect on the validation tasks. Return the gain over the same greedy answers without reflection, and the dialogues by task.

    Where validation tasks are not evaluated, they are answered here, only for this decision. So the tasks that decide are never the
    tasks that are reported as a test.
    """
    tried = [(task, row) for task, row in answered if task.split == TRIAL]
    if not tried:
        tasks = choose_tasks(pools, (TRIAL,), config, ctx)
        replies = asker.greedy(
            [(task.prompt, task.form) for task in tasks], config.max_new_tokens, "validation answers"
        )
        tried = [(task, reply_row(task, reply, config.style)) for task, reply in zip(tasks, replies, strict=True)]
    dialogues = [begin(task, row, config.style) for task, row in tried]
    reflect(dialogues, asker, config)
    scored = [(d, row.score, _row(d, config.style).score) for d, (_, row) in zip(dialogues, tried, strict=True)]
    gain = _mean([(d, b, a) for d, b, a in scored if b is not None and a is not None], lambda b, a: a - b, config)
    return gain, {d.task.task_id: d for d in dialogues}


def extend(
    summary: dict[str, Any], judging: Judging, baseline: Evaluation | None, config: AnswerConfig
) -> dict[str, Any]:
    """Return `summary` with `judge` and `alarms`, and with `own` and `reflected` in every split."""
    fell = drift(judging.quality, judging.verdicts, judging.anchors, baseline, config)
    splits: dict[str, Any] = {}
    for split, values in summary["splits"].items():
        mine = [d for d in judging.dialogues if d.task.split == split]
        splits[split] = values | _split(mine, judging, config)
    alarms = [{"name": DRIFT, "reason": fell["reason"]}] if fell is not None and fell["alarm"] else []
    peak, sunk = best_so_far(judging.quality, baseline, config.judge.drift_limit if config.judge else 0.0)
    alarms += [{"name": DRIFT, "reason": sunk}] if sunk and not alarms else []
    return summary | {"splits": splits, "judge": {**judging.quality, "drift": fell, "peak": peak}, "alarms": alarms}


def best_so_far(quality: dict[str, Any], baseline: Evaluation | None, limit: float) -> tuple[float | None, str]:
    """Return the best balanced accuracy of all baselines so far, and the reason for an alarm. Without an alarm the reason is empty.

    `drift` compares a policy with its own baseline only. So several small falls, each inside the limit, could add up to a large
    one.
    """
    theirs = baseline.read_json("summary.json").get("judge") if baseline is not None else None
    same = theirs is not None and theirs["protocol"] == quality["protocol"]
    before, now = theirs.get("peak") if theirs is not None and same else None, quality["balanced_accuracy"]
    peak = max((value for value in (before, now) if value is not None), default=None)
    if before is None or now is None or now >= before - limit or quality["high"] >= before:
        return peak, ""
    return (
        peak,
        f"balanced accuracy {now:.3f} of the judge on the anchors is more than {limit:g} below its best, {before:.3f}",
    )


def metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that `extend` added as metrics. Undefined numbers are left out."""
    judged, fell = summary["judge"], summary["judge"]["drift"] or {}
    out: dict[str, float | None] = {f"judge/{n}": judged[n] for n in ("balanced_accuracy", "low", "high", "parse_rate")}
    out |= {"judge/drift_alarm": float(bool(summary["alarms"])), "judge/difference_to_baseline": fell.get("difference")}
    for kind, values in judged["kinds"].items():
        out |= {
            f"judge/{kind}/{name}": values[name] for name in ("balanced_accuracy", "bias", "parse_rate", "consistency")
        }
    for split, values in summary["splits"].items():
        own, after = values.get("own") or {}, values.get("reflected")
        names = ("precision", "recall", "f1", "balanced_accuracy", "parse_rate", "brier", "ece")
        out |= {f"{split}/own/{name}": own.get(name) for name in names}
        if after is not None:
            out |= {
                f"{split}/reflected_accuracy": after["score"],
                f"{split}/reflected_gain": after["gain"]["difference"],
            }
            out |= {f"{split}/reflected_calls": after["calls_mean"], "judge/gate_open": float(after["gate"]["open"])}
    return {name: float(value) for name, value in out.items() if value is not None}


def _split(mine: Sequence[Dialogue], judging: Judging, config: AnswerConfig) -> dict[str, Any]:
    """Return `own` and `reflected` of one split."""
    assert config.judge is not None
    if not mine:
        return {}
    known = [(d, score) for d in mine if (score := judging.plain[d.task.task_id]) is not None]
    opinions = [opinion(d, score == 1.0) for d, score in known if d.verdicts]
    out: dict[str, Any] = {"own": own_quality(opinions, config.judge.confidence)}
    if judging.gate is not None:
        scored = [(d, before, judging.after[d.task.task_id].score) for d, before in known]
        pairs = [(d, before, after) for d, before, after in scored if after is not None]
        out["reflected"] = _reflected(pairs, judging.gate, config)
    return out


def _reflected(
    pairs: Sequence[tuple[Dialogue, float, float]],
    gated: dict[str, Any],
    config: AnswerConfig,
) -> dict[str, Any]:
    """Return the score after reflection with its interval, the score before it, the paired gain, and the costs."""
    calls = [d.calls for d, _, _ in pairs]
    after = _mean(pairs, lambda b, a: a, config)
    gain = _mean(pairs, lambda b, a: a - b, config)
    return {
        "score": after.estimate,
        "low": after.low,
        "high": after.high,
        "plain": after.estimate - gain.estimate,
        "gain": {"difference": gain.estimate, "low": gain.low, "high": gain.high},
        "arms": {arm: sum(a for _, a in v) / len(v) for arm, v in sorted(_by_arm(pairs).items())},
        "num_tasks": len(pairs),
        "calls_mean": sum(calls) / len(calls),
        "calls_max": max(calls),
        "tokens_mean": sum(d.num_tokens for d, _, _ in pairs) / len(pairs),
        "rounds": {str(n): c for n, c in sorted(Counter(d.rewrites for d, _, _ in pairs).items())},
        "ends": dict(sorted(Counter(d.end for d, _, _ in pairs if d.end).items())),
        "right_to_wrong": sum(b > a for _, b, a in pairs),
        "wrong_to_right": sum(a > b for _, b, a in pairs),
        "gate": gated,
    }


def _row(dialogue: Dialogue, style: str) -> EvalRow:
    verdict = verify(dialogue.task, dialogue.text, style)
    return EvalRow(
        task_id=dialogue.task.task_id,
        arm=dialogue.task.arm,
        split=dialogue.task.split,
        sample=-2,
        score=verdict.correct if isinstance(verdict, Score) else None,
        length=dialogue.num_tokens,
        truncated=dialogue.truncated,
        answer=dialogue.text,
    )


def _mean(
    pairs: Sequence[tuple[Dialogue, float, float]],
    value: Callable[[float, float], float],
    config: AnswerConfig,
) -> Interval:
    means: dict[str, dict[str, float]] = {}
    for dialogue, before, after in pairs:
        means.setdefault(dialogue.task.arm, {})[dialogue.task.task_id] = value(before, after)
    return stratified_mean(arrays(means), config.confidence)


def _by_arm(pairs: Sequence[tuple[Dialogue, float, float]]) -> dict[str, list[tuple[float, float]]]:
    out: dict[str, list[tuple[float, float]]] = {}
    for dialogue, before, after in pairs:
        out.setdefault(dialogue.task.arm, []).append((before, after))
    return out
