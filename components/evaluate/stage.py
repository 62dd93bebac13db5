"""Evaluate: accuracy per arm and split, and a paired comparison with the champion on the same tasks.

Every policy of an evolution answers the same held-out tasks with the same random numbers. `rows.parquet` holds every
answer; `summary.json` holds, per split, the macro accuracy over arms with its interval, each arm, the worst arm, and
the comparison. The comparison on `val` is what the gate reads; `id` and `ood` are reported and select nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instar import seeds
from instar.artifact import Evaluation, Policy, Tasks
from instar.components.evaluate.config import Config
from instar.contract import Context, Metrics, Stage
from instar.rows import EvalRow, TaskRow


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Task pools, the policy, and the evaluation of the policy to beat, if there is one."""

    tasks: Tasks
    policy: Policy
    champion: Evaluation | None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """Every answer, and the summary."""

    evaluation: Evaluation


def evaluate(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Answer, score, summarise, compare. Metrics: accuracy per split, arm and worst arm; difference to the champion."""
    from instar.components.evaluate.answers import answer, choose_tasks

    tasks = choose_tasks(ins.tasks, config, ctx)
    answers = answer(tasks, ins.policy, config, ctx)
    outs.evaluation.write(answers.rows)
    summary = summarise(answers.rows, tasks, ins.champion, config, ctx)
    summary |= {"policy": ins.policy.digest, "num_abstained": answers.num_abstained}
    summary["num_failed"] = answers.failures.total()
    outs.evaluation.write_json("summary.json", summary)
    return _metrics(summary, len(answers.rows))


def summarise(
    rows: Sequence[EvalRow], tasks: Sequence[TaskRow], champion: Evaluation | None, config: Config, ctx: Context
) -> dict[str, Any]:
    """Return the summary of evaluation rows, with the comparison per split when there is a champion."""
    from instar.components.evaluate.compare import compare, other_protocol, protocol
    from instar.components.evaluate.summary import split_summary

    mine = protocol(config, tasks)
    same = champion is not None and champion.read_json("summary.json")["protocol"] == mine
    theirs = champion.read() if champion is not None and same else []
    splits: dict[str, Any] = {}
    for split in config.splits:
        generator = seeds.rng(ctx.evolution, ctx.step, ctx.stage, f"bootstrap/{split}")
        splits[split] = split_summary(rows, split, config, generator)
        comparison = compare(rows, theirs, split, config, generator) if same else other_protocol()
        splits[split]["comparison"] = comparison.to_json() if champion is not None else None
    return {"protocol": mine, "answers": "samples" if config.samples else "greedy", "splits": splits}


def _metrics(summary: dict[str, Any], num_answers: int) -> Metrics:
    out: Metrics = {"num_answers": float(num_answers), "num_failed": float(summary["num_failed"])}
    out["num_abstained"] = float(summary["num_abstained"])
    for split, values in summary["splits"].items():
        out[f"{split}/accuracy"] = values["accuracy"]
        out[f"{split}/worst_arm_accuracy"] = values["worst_accuracy"]
        out |= {f"{split}/{arm}/accuracy": found["accuracy"] for arm, found in values["arms"].items()}
        if values.get("greedy_accuracy") is not None:
            out[f"{split}/greedy_accuracy"] = values["greedy_accuracy"]
        comparison = values["comparison"]
        if comparison is not None and comparison["difference"] is not None:
            out[f"{split}/difference_to_champion"] = comparison["difference"]
    return out


STAGE = Stage("evaluate", Ins, Outs, Config, evaluate)
