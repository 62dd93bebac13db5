"""A small evolution written entry by entry: real store, real artifacts, numbers chosen by hand.

Arms sort-03 to sort-05 with 10 validation tasks each; `CORRECT` of them are solved after iteration 0 to 4. Every stage
takes 2 s of wall time, 3 s of CPU time and 0.5 s more until it is committed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instar.artifact import (
    ArmStats,
    Artifact,
    Batch,
    CurriculumState,
    Evaluation,
    History,
    Policy,
    Rollouts,
    Scores,
    Tasks,
    TrainerState,
)
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.stage import summarise
from instar.rows import ArmStatsRow, BatchRow, EvalRow, RolloutRow, ScoreRow, Step, TaskRow
from instar.workspace import Workspace, create_workspace

ARMS = ("sort-03", "sort-04", "sort-05")
CORRECT = {"sort-03": (4, 6, 8, 9, 10), "sort-04": (1, 2, 4, 7, 9), "sort-05": (0, 0, 1, 3, 6)}
DECISIONS = (("continue", True), ("continue", True), ("hold", False), ("continue", True), ("rollback", False))
"""Action and promotion after iteration 0 to 4: the champion is the policy of iteration 3."""
ITERATIONS, INNER, ROLLOUTS, TASKS = 4, 2, 16, 10
START = 1_700_000_000.0
EVIL = "<script>document.title='owned'</script>"


class Writer:
    """Appends the entries of one evolution."""

    def __init__(
        self, path: Path, clock: str, evolution: str = "sec-tiny-seed7", recipe: dict[str, Any] | None = None
    ) -> None:
        self.workspace = create_workspace(path, evolution)
        self.clock, self.now = clock, START
        self.recipe = recipe or {
            "name": "sec",
            "scale": "tiny",
            "paper": "arXiv 2505.14970",
            "clock": clock,
            "iterations": ITERATIONS,
            "inner_steps": INNER,
            "curriculum": {"strategy": "sec", "tau": 0.2},
            "update": {"lr": 5e-4, "betas": [0.9, 0.98]},
            "evaluate": {"splits": ["val"], "samples": 0},
            "test": {"splits": ["id"], "samples": 0},
            "dataset_prep": {"arms": [{"name": a, "domain": "sorting"} for a in ARMS]},
        }
        opened = {"name": self.recipe["name"], "scale": self.recipe["scale"], "seed": 7, "code": "c0de"}
        self.workspace.ledger.append("open", {"recipe": self.recipe, **opened}, {"at": self.now})

    def put(self, artifact: Artifact) -> str:
        """Store an artifact's folder."""
        return self.workspace.put(artifact)

    def make(self, kind: type[Any], name: str) -> Any:
        """Return an artifact in a fresh folder."""
        return kind(self.workspace.fresh_scratch(name))

    def stage(
        self,
        stage: str,
        iteration: int,
        step: int,
        inputs: dict[str, str],
        outputs: dict[str, str],
        metrics: Mapping[str, float],
        perf: Mapping[str, float] | None = None,
    ) -> None:
        """Append a stage entry."""
        ledger = self.workspace.ledger
        body = {
            "stage": stage,
            "iteration": iteration,
            "step": step,
            "key": f"{len(ledger.entries):064d}",
            "inputs": inputs,
            "outputs": outputs,
            "metrics": dict(metrics),
            "code": "c0de",
        }
        time = {"started": self.now, "ended": self.now + 2.5, "perf/wall_s": 2.0, "perf/cpu_s": 3.0, **(perf or {})}
        self.now += 3.0
        ledger.append("stage", body, time)


def write_evolution(
    path: Path, clock: str = "rounds", iterations: int = ITERATIONS, *, closed: bool = True
) -> Workspace:
    """Write an evolution of `iterations` iterations and, if `closed`, its end."""
    w = Writer(path, clock)
    tasks = w.make(Tasks, "tasks")
    rows = [task(arm, split, i) for arm in ARMS for split in ("train", "val", "id") for i in range(TASKS)]
    tasks.write(rows)
    prepared = {"tasks": w.put(tasks), "policy": policy(w, 0)}
    w.stage("dataset_prep", 0, 0, {}, prepared, {"num_tasks": float(len(rows))})
    state = {"policy": prepared["policy"]}
    champion, champion_policy = "", prepared["policy"]
    test = ""
    for k in range(iterations + 1):
        if k:
            state = (fused if w.clock == "fused" else rounds)(w, k, prepared["tasks"], state)
        made = evaluate(w, rows, "val", k, state["policy"], champion)
        if k == 0:
            test = evaluate(w, rows, "id", 0, state["policy"], "")
        action, promote = DECISIONS[k]
        body = {"iteration": k, "evaluation": made, "baseline": champion}
        w.workspace.ledger.append(
            "gate", {**body, "decision": {"action": action, "reason": f"reason {k}", "promote": promote}}, {"at": w.now}
        )
        if promote:
            champion, champion_policy = made, state["policy"]
    if closed:
        evaluate(w, rows, "id", iterations, champion_policy, test, solved=3)
        close = {"reason": "all done", "iterations": iterations, "policy": state["policy"], "champion": champion_policy}
        w.workspace.ledger.append("close", close, {"at": w.now})
    return w.workspace


def task(arm: str, split: str, index: int) -> TaskRow:
    """Return one sorting task."""
    return TaskRow(
        task_id=f"{arm}/{split}/{index:03d}",
        arm=arm,
        domain="sorting",
        level=float(arm[-2:]),
        split=split,
        prompt=f"sort & order <b>{index}</b> of {arm}",
        verifier="exact",
        reference=json.dumps({"answer": f"right {index}"}),
        features="{}",
        content_hash=f"{arm}{split}{index}".ljust(64, "0"),
        generator="test/1",
        seed=index,
    )


def policy(w: Writer, number: int) -> str:
    """Store a policy whose only content is its number."""
    made = w.make(Policy, "policy")
    made.write_json("config.json", {"number": number})
    return w.put(made)


def evaluate(
    w: Writer, tasks: list[TaskRow], split: str, k: int, policy_digest: str, against: str, solved: int = 0
) -> str:
    """Store an evaluation in which `CORRECT` tasks per arm (those of iteration `solved` or `k`) are right."""
    mine = [t for t in tasks if t.split == split]
    rows = []
    for t in mine:
        index = int(t.task_id[-3:])
        right = index < CORRECT[t.arm][solved or k]
        answer = f"right {index}" if right else f"wrong {EVIL}"
        rows.append(
            EvalRow(
                task_id=t.task_id,
                arm=t.arm,
                split=split,
                sample=-1,
                score=float(right),
                length=4,
                truncated=False,
                answer=answer,
            )
        )
    made = w.make(Evaluation, "evaluation")
    made.write(rows)
    config = AnswerConfig(splits=(split,), samples=0, greedy=True, max_new_tokens=8)
    before = Evaluation(w.workspace.cas.get(against), against) if against else None
    found = summarise(rows, mine, policy_digest, before, config)
    made.write_json("summary.json", {**found, "policy": policy_digest, "num_abstained": 0, "num_failed": 0})
    digest = w.put(made)
    inputs = {"policy": policy_digest} | ({"baseline": against} if against else {})
    metrics = {f"{split}/accuracy": found["splits"][split]["score"], "num_answers": float(len(rows))}
    metrics |= {f"{split}/{arm}/accuracy": v["score"] for arm, v in found["splits"][split]["arms"].items()}
    w.stage("evaluate", k, 0, inputs, {"evaluation": digest}, metrics)
    return digest


def metrics_of(step: int) -> dict[str, dict[str, float]]:
    """Return the metrics of the four learning stages at an inner step, named as the stages name them."""
    p = {"sort-03": 0.7 - 0.1 * (step % 8), "sort-04": 0.2, "sort-05": 0.1 + 0.1 * (step % 8)}
    solve = {"sort-03": 0.5, "sort-04": 0.25, "sort-05": 0.125}
    return {
        "curriculum": {
            "curriculum/entropy": 1.0,
            **{f"curriculum/{a}/p": v for a, v in p.items()},
            **{f"curriculum/{a}/share": v for a, v in p.items()},
            **{f"curriculum/{a}/solve_rate": v for a, v in solve.items()},
        },
        "rollout": {
            "num_rollouts": float(ROLLOUTS),
            "tokens": 64.0,
            "mean_length_tokens": 4.0 + step,
            "truncated_share": 0.25,
        },
        "reward": {
            "num_rollouts": float(ROLLOUTS),
            "reward_mean": 0.125 * step,
            "accuracy": 0.0625 * step,
            "length_mean": 4.0 + step,
        },
        "update": UPDATE | {"grad_norm": 1.0 + step},
    }


UPDATE = {
    "updates": 1.0,
    "zero_variance_share": 0.5,
    "all_right_share": 0.25,
    "all_wrong_share": 0.25,
    "kept_share": 0.5,
    "entropy": 0.75,
    "ratio/q01": 0.9,
    "ratio/q50": 1.0,
    "ratio/q99": 1.1,
    "clip_share_low": 0.01,
    "clip_share_high": 0.02,
    "kl/k3": 0.003,
    "mismatch/abs_mean": 0.001,
    "mismatch/kl": 0.0001,
    "arm/sort-03/reward_mean": 0.5,
}


def rounds(w: Writer, k: int, tasks: str, state: dict[str, str]) -> dict[str, str]:
    """Append the four learning stages of every inner step of iteration `k`."""
    for step in range((k - 1) * INNER, k * INNER):
        metrics = metrics_of(step)
        made = learning_outputs(w, step, state["policy"])
        w.stage(
            "curriculum",
            k,
            step,
            {"tasks": tasks},
            {n: made[n] for n in ("batch", "curriculum")},
            metrics["curriculum"],
        )
        w.stage("rollout", k, step, {"policy": state["policy"]}, {"rollouts": made["rollouts"]}, metrics["rollout"])
        w.stage("reward", k, step, {"rollouts": made["rollouts"]}, {"scores": made["scores"]}, metrics["reward"])
        outputs = {n: made[n] for n in ("trainer", "stats")} | {"policy": policy(w, step + 1)}
        w.stage("update", k, step, {"policy": state["policy"]}, outputs, metrics["update"])
        state = {"policy": outputs["policy"]}
    return state


def fused(w: Writer, k: int, tasks: str, state: dict[str, str]) -> dict[str, str]:
    """Append one segment for iteration `k`, with a history line per inner step."""
    first = (k - 1) * INNER
    lines = [
        {"step": s, **{f"{stage}/{n}": v for stage, found in metrics_of(s).items() for n, v in found.items()}}
        for s in range(first, first + INNER)
    ]
    history = w.make(History, "history")
    (history.path / "metrics.jsonl").write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    made = learning_outputs(w, first + INNER - 1, state["policy"])
    means = {n: sum(line[n] for line in lines) / INNER for n in lines[0] if n != "step"} | {"inner_steps": float(INNER)}
    perf = {f"perf/{stage}/wall_s": 0.4 for stage in ("curriculum", "rollout", "reward", "update")}
    perf |= {f"perf/{stage}/cpu_s": 0.5 for stage in ("curriculum", "rollout", "reward", "update")}
    outputs = made | {"policy": policy(w, k * INNER), "history": w.put(history)}
    w.stage("fused", k, first, {"policy": state["policy"], "tasks": tasks}, outputs, means, perf)
    return {"policy": outputs["policy"]}


def learning_outputs(w: Writer, step: int, policy_digest: str) -> dict[str, str]:
    """Store batch, curriculum state, rollouts, scores, statistics and trainer state of one inner step, a row each."""
    group, task_id = f"{step:06d}-0000", f"{ARMS[0]}/train/000"
    batch, state, acted, scores = (
        w.make(Batch, "b"),
        w.make(CurriculumState, "c"),
        w.make(Rollouts, "r"),
        w.make(Scores, "s"),
    )
    batch.write([BatchRow(slot=0, task_id=task_id, arm=ARMS[0], probability=0.5, group_id=group, group_size=1)])
    state.write_json("state.json", {"step": step})
    acted.write(
        [
            RolloutRow(
                rollout_id=f"{group}/0",
                task_id=task_id,
                arm=ARMS[0],
                kind="text",
                group_id=group,
                policy=policy_digest,
                token_ids=[1, 2],
                behaviour_logprobs=[-0.5],
                truncated=False,
                seed=step,
                steps=[Step(role="prompt", start=0, end=1), Step(role="action", start=1, end=2)],
            )
        ]
    )
    scores.write(
        [
            ScoreRow(
                rollout_id=f"{group}/0",
                correct=1.0,
                format_ok=1.0,
                reward=1.0,
                components={},
                status="scored",
                reason="",
                scorer="exact/1",
            )
        ]
    )
    stats, trainer = w.make(ArmStats, "a"), w.make(TrainerState, "t")
    zero = {n: 0 for n in ArmStatsRow.__dataclass_fields__ if n.startswith("num")}
    total = {n: 0.0 for n in ArmStatsRow.__dataclass_fields__ if n.startswith("sum") and n != "sum_tokens"}
    filled: dict[str, Any] = {**zero, **total}
    stats.write([ArmStatsRow(arm=ARMS[0], sum_tokens=4, **filled)])
    (trainer.path / "optimizer.safetensors").write_bytes(b"")
    trainer.write_json("trainer.json", {"step": step})
    made = {
        "batch": batch,
        "curriculum": state,
        "rollouts": acted,
        "scores": scores,
        "stats": stats,
        "trainer": trainer,
    }
    return {name: w.put(artifact) for name, artifact in made.items()}
