"""The policy as a judge: its verdicts on the anchors, and whether it judges worse than the baseline did.

The judge may get worse while the accuracy still rises. The fall is measured on answers that no policy wrote. It raises an
alarm, and under an alarm the gate promotes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instar import config as configs
from instar import schema
from instar.artifact import Evaluation, Tasks
from instar.components.evaluate.asking import Asker, Reply
from instar.components.evaluate.intervals import stratified_mean
from instar.components.evaluate.quality import Anchored, anchor_quality, column, units
from instar.components.generated.anchors import SPLIT
from instar.components.generated.item import LABELS, origin
from instar.components.generated.templates import read_verdict
from instar.components.reward.verifiers import Score, verify
from instar.components.task_table import digests, resident_tables
from instar.contract import Context
from instar.errors import ContractError
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.config import AnswerConfig
    from instar.components.evaluate.judge_config import JudgeConfig

DRIFT = "judge_drift"


def choose_anchors(pools: Mapping[str, Tasks], config: JudgeConfig, ctx: Context) -> list[TaskRow]:
    """Return the anchors to ask: the first units of each kind, always whole. Raises `ContractError` for a pool without anchors."""
    table = resident_tables(pools, ctx.resident)
    rows = table.filter(np.asarray(table.column("split").to_numpy(zero_copy_only=False) == SPLIT))
    taken: Counter[str] = Counter()
    seen: dict[str, bool] = {}
    out = []
    for row in schema.from_table(TaskRow, rows):
        unit = origin(row).group
        if unit not in seen:
            taken[row.arm] += 1
            seen[unit] = config.anchors == 0 or taken[row.arm] <= config.anchors
        if seen[unit]:
            out.append(row)
    if not out:
        raise ContractError(
            expected=f"tasks of split {SPLIT}",
            found="none",
            where=f"Tasks {digests(pools)}:split",
            action="prepare them with dataset_prep.anchors, or set evaluate.judge=none and evaluate.reflect=none",
        )
    return out


def ask_anchors(anchors: Sequence[TaskRow], asker: Asker, config: AnswerConfig) -> list[EvalRow]:
    """Return the verdicts on anchors as evaluation rows. The score says whether the verdict was right."""
    assert config.judge is not None
    limit = config.judge.max_new_tokens or config.max_new_tokens
    replies = asker.greedy([(task.prompt, task.form) for task in anchors], limit, "verdicts on anchors")
    return [reply_row(task, reply, config.style) for task, reply in zip(anchors, replies, strict=True)]


def anchored(rows: Sequence[EvalRow], anchors: Sequence[TaskRow]) -> list[Anchored]:
    """Return the verdicts on `anchors` in evaluation rows. Rows of other tasks are left out."""
    origins = {task.task_id: origin(task) for task in anchors}
    verdicts = [(row, origins[row.task_id]) for row in rows if row.split == SPLIT and row.task_id in origins]
    return [
        Anchored(
            kind=about.kind,
            unit=about.group,
            first=about.label == LABELS[about.kind][0],
            says=read_verdict(about.wording, about.family, row.answer),
            score=row.score,
        )
        for row, about in verdicts
    ]


def judge_summary(rows: Sequence[EvalRow], anchors: Sequence[TaskRow], config: AnswerConfig) -> dict[str, Any]:
    """Return the quality of the judge on the anchors, with the digest of its protocol. Only judges of equal digest are compared."""
    assert config.judge is not None
    quality = anchor_quality(anchored(rows, anchors), config.judge.confidence)
    limit = config.judge.max_new_tokens or config.max_new_tokens
    contents = sorted((task.task_id, task.content_hash, task.form) for task in anchors)
    settings = {"max_new_tokens": limit, "stop": config.stop, "style": config.style}
    return {**quality, "protocol": configs.digest({"settings": settings, "anchors": contents})}


def drift(
    summary: dict[str, Any],
    rows: Sequence[EvalRow],
    anchors: Sequence[TaskRow],
    baseline: Evaluation | None,
    config: AnswerConfig,
) -> dict[str, Any] | None:
    """Return the paired difference to the baseline's balanced accuracy, and whether it is an alarm. None without a baseline.

    Like the balanced accuracy, the difference is the mean over kinds of the mean over units. A baseline that judged other
    anchors, or judged under other settings, gives no difference and no alarm.
    """
    assert config.judge is not None
    if baseline is None:
        return None
    limit, theirs = config.judge.drift_limit, baseline.read_json("summary.json").get("judge")
    out: dict[str, Any] = {"limit": limit, "alarm": False, **dict.fromkeys(("difference", "low", "high"))}
    if theirs is None or theirs["protocol"] != summary["protocol"]:
        return {**out, "reason": "the baseline judged other anchors, or under other settings"}
    now, before = units(anchored(rows, anchors)), units(anchored(baseline.read(), anchors))
    gaps = {
        kind: {unit: now[kind][unit] - before[kind][unit] for unit in now[kind].keys() & before[kind].keys()}
        for kind in now.keys() & before.keys()
    }
    columns = [column(values) for _, values in sorted(gaps.items()) if len(values) >= 2]
    if not columns:
        return {**out, "reason": "no kind of anchor has two units that both judged"}
    fall = stratified_mean(columns, config.judge.confidence)
    alarm = fall.estimate < -limit and fall.high < 0.0
    level = "" if summary["balanced_accuracy"] is None else f", now {summary['balanced_accuracy']:.3f}"
    verdict = "fell by more than" if alarm else "is within"
    reason = f"balanced accuracy of the judge on the anchors {verdict} {limit:g} of the baseline's: {fall}{level}"
    numbers = {"difference": fall.estimate, "low": fall.low, "high": fall.high}
    return {**out, **numbers, "alarm": alarm, "reason": reason}


def reply_row(task: TaskRow, reply: Reply, style: str) -> EvalRow:
    """Return a greedy reply to a task as an evaluation row."""
    verdict = verify(task, reply.text, style)
    return EvalRow(
        task_id=task.task_id,
        arm=task.arm,
        split=task.split,
        sample=-1,
        score=verdict.correct if isinstance(verdict, Score) else None,
        length=reply.num_tokens,
        truncated=reply.sample.truncated,
        answer=reply.text,
    )
