"""Evaluate: the score per arm and split, and a paired comparison with the baseline on the same tasks.

Every policy of an evolution attempts the same held-out tasks with the same random numbers. Strategies: `answer` prompts and
verify (the score is an accuracy), `simulate` episodes (the score is a normalised return). `rows.parquet` holds every
attempt; `summary.json` holds, per split, the macro score over arms with its interval, each arm, the worst arm, and
the comparison. The comparison on `val` is what the gate reads; `id` and `ood` are reported and select nothing.

With `judge`, the policy also judges answers: those of the anchors (rows of split `anchor`) and its own greedy ones. A judge that
decayed against the baseline's is an alarm in the summary, under which nothing is promoted. With `reflect` it corrects what it
rejects, where that surely gained on the validation tasks: what comes of it are rows of sample -2 and `reflected` in every split,
the dialogues are in `reflections.jsonl`, and the score stays that of the answers before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instar.artifact import Evaluation, Policy, Tasks
from instar.components.evaluate.attempts import choose_tasks
from instar.components.evaluate.config import AnswerConfig, Config
from instar.components.task_table import pools_of
from instar.contract import Context, Metrics, Stage
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.compare import Comparison
    from instar.components.evaluate.judging import Judging


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Task pools, the policy, and the evaluation of the policy to beat, if there is one."""

    tasks: Tasks
    policy: Policy
    baseline: Evaluation | None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """Every attempt, and the summary."""

    evaluation: Evaluation


def evaluate(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Attempt, score, summarise, compare. Metrics: the measure per split, arm and worst arm; difference to the baseline."""
    tasks = choose_tasks(pools_of(ins), config.splits, config, ctx)
    attempts = config.attempt(tasks, ins, ctx)
    judging = attempts.judging
    outs.evaluation.write([*attempts.rows, *(judging.rows if judging is not None else [])])
    summary = summarise(attempts.rows, tasks, ins.policy.digest, ins.baseline, config) | attempts.notes
    summary |= {"policy": ins.policy.digest, "num_abstained": attempts.num_abstained}
    summary["num_failed"] = attempts.failures.total()
    for split, arms in summary.pop("returns", {}).items():
        for arm, more in arms.items():
            summary["splits"][split]["arms"][arm] |= more
    if judging is not None:
        summary = _judged(summary, judging, ins, outs, config)
    outs.evaluation.write_json("summary.json", summary)
    return _metrics(summary, len(attempts.rows))


def _judged(summary: dict[str, Any], judging: Judging, ins: Ins, outs: Outs, config: Config) -> dict[str, Any]:
    """Return the summary with what is known of the judge; `reflections.jsonl` keeps what was said, answer by answer."""
    from instar.components.evaluate.judging import extend

    assert isinstance(config, AnswerConfig)
    lines = [json.dumps(dialogue.to_json(), sort_keys=True) + "\n" for dialogue in judging.dialogues]
    (outs.evaluation.path / "reflections.jsonl").write_text("".join(lines), encoding="utf-8")
    return extend(summary, judging, ins.baseline, config)


def summarise(
    rows: Sequence[EvalRow], tasks: Sequence[TaskRow], policy: str, baseline: Evaluation | None, config: Config
) -> dict[str, Any]:
    """Return the summary of evaluation rows, with the comparison per split when there is a baseline."""
    from instar.components.evaluate.compare import protocol
    from instar.components.evaluate.summary import split_summary

    mine = protocol(config, tasks)
    splits: dict[str, Any] = {}
    for split in config.splits:
        splits[split] = split_summary(rows, split, config)
        comparison = _comparison(rows, split, policy, baseline, mine, config)
        splits[split]["comparison"] = comparison.to_json() if comparison is not None else None
    return {
        "protocol": mine,
        "measure": config.measure,
        "answers": "greedy" if config.by_greedy else "samples",
        "splits": splits,
    }


def _comparison(
    rows: Sequence[EvalRow], split: str, policy: str, baseline: Evaluation | None, mine: str, config: Config
) -> Comparison | None:
    """Return how the policy compares with the baseline on a split; None without a baseline."""
    from instar.components.evaluate.compare import compare, other_protocol, the_same

    if baseline is None:
        return None
    theirs = baseline.read_json("summary.json")
    if theirs["protocol"] != mine:
        return other_protocol(config)
    if theirs["policy"] == policy:
        return the_same(len({row.task_id for row in rows if row.split == split}))
    return compare(rows, baseline.read(), split, config)


def _metrics(summary: dict[str, Any], num_answers: int) -> Metrics:
    out: Metrics = {"num_answers": float(num_answers), "num_failed": float(summary["num_failed"])}
    out["num_abstained"] = float(summary["num_abstained"])
    measure = summary["measure"]
    for split, values in (summary["splits"] | summary.get("probes", {})).items():
        out[f"{split}/{measure}"] = values["score"]
        out[f"{split}/worst_arm_{measure}"] = values["worst_score"]
        out |= {f"{split}/{arm}/{measure}": found["score"] for arm, found in values["arms"].items()}
        out |= {f"{split}/{arm}/return": found["return"] for arm, found in values["arms"].items() if "return" in found}
        if values.get("greedy_score") is not None:
            out[f"{split}/greedy_{measure}"] = values["greedy_score"]
        comparison = values.get("comparison")
        if comparison is not None and comparison["difference"] is not None:
            out[f"{split}/difference_to_baseline"] = comparison["difference"]
    if "judge" in summary:
        from instar.components.evaluate.judging import metrics

        out |= metrics(summary)
    return out


STAGE = Stage("evaluate", Ins, Outs, Config, evaluate, version=5)
