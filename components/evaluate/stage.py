"""Evaluate: the score per arm and split, and a paired comparison with the baseline on the same tasks.

Every policy of an evolution attempts the same held-out tasks with the same random numbers. There are two strategies. `answer`
lets the policy answer prompts and verifies the answers, so the score is an accuracy. `simulate` runs episodes, and the score is
a normalised return.

`rows.parquet` holds every attempt. `summary.json` holds for each split: the mean score over arms with its interval, the score
of each arm, the worst arm, and the comparison. The gate reads the comparison on `val`. The splits `id` and `ood` are reported,
and nothing is selected by them.

With `judge`, the policy also judges answers: those of the anchors (rows of split `anchor`) and its own greedy answers. When the
judge is worse than the baseline's, the summary has an alarm, and under an alarm nothing is promoted.

With `reflect`, the policy also corrects the answers that it rejects, where that surely gained on the validation tasks. The
corrected answers are rows of sample -2, every split of the summary has `reflected`, and `reflections.jsonl` holds the
dialogues. The score stays that of the uncorrected answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from instar.artifact import Code, Evaluation, Policy, Tasks
from instar.components.evaluate.attempts import choose_tasks
from instar.components.evaluate.config import AnswerConfig, Config
from instar.components.task_table import pools_of
from instar.contract import ON_REQUEST, Context, Metrics, Stage
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.compare import Comparison
    from instar.components.evaluate.judging import Judging


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Task pools, the policy, and the evaluation of the policy to compare with, if there is one.

    On request: the model and the code that score answers.
    """

    tasks: Tasks
    policy: Policy
    baseline: Evaluation | None
    scorer: Annotated[Policy | None, ON_REQUEST] = None
    reward_code: Annotated[Code | None, ON_REQUEST] = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """Every attempt, and the summary."""

    evaluation: Evaluation


def evaluate(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Attempt the tasks, score and summarise the attempts, and compare them with the baseline.

    The metrics are the measure per split and arm, that of the worst arm, and the difference to the baseline.
    """
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
    """Return the summary with the results about the judge. Write the dialogues to `reflections.jsonl`, one per line."""
    from instar.components.evaluate.judging import extend

    assert isinstance(config, AnswerConfig)
    lines = [json.dumps(dialogue.to_json(), sort_keys=True) + "\n" for dialogue in judging.dialogues]
    (outs.evaluation.path / "reflections.jsonl").write_text("".join(lines), encoding="utf-8")
    return extend(summary, judging, ins.baseline, config)


def summarise(
    rows: Sequence[EvalRow], tasks: Sequence[TaskRow], policy: str, baseline: Evaluation | None, config: Config
) -> dict[str, Any]:
    """Return the summary of evaluation rows. With a baseline, every split has a comparison."""
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
    """Return how the policy compares with the baseline on a split, or None without a baseline."""
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
        out |= {f"{split}/{arm}/{measure}": scored["score"] for arm, scored in values["arms"].items()}
        out |= {
            f"{split}/{arm}/return": scored["return"] for arm, scored in values["arms"].items() if "return" in scored
        }
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
