"""A small evolution of a continuous-control recipe, written entry by entry: real store, real artifacts, numbers chosen by hand.

Two arms of logged data with 3 episodes of 20 steps each; 4 start states per pool. A random policy has return -1200, the
expert -200, so a score s is the return 1000 s - 1200. The last policy is always the champion, and not the best one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from instar.artifact import Evaluation, Tasks
from instar.components.evaluate.config import SimulateConfig
from instar.components.evaluate.stage import summarise
from instar.components.evaluate.summary import split_summary
from instar.rows import EvalRow, TaskRow
from instar.workspace import Workspace
from support.written import Writer, learning_outputs, policy

RANDOM, EXPERT, TARGET, PROBE = -1200.0, -200.0, -150.0, -900.0
RETURNS = {"random 100%": (-1200.0, -1100.0, -1000.0), "random 40%": (-500.0, -400.0, -300.0)}
"""Arm -> returns of its logged episodes, the worst data first."""
LENGTH, STARTS, ITERATIONS = 20, 4, 4
SPREAD = (-0.1, 0.0, 0.0, 0.1)
"""Score of each start state around the mean."""
AT_TARGET = (0.0, 0.3, 0.6, 0.8, 0.7)
AT_PROBE = (0.0, 0.2, 0.3, 0.3, 0.3)
"""Mean score after iteration 0 to 4. 0.3 is the return -900 that the probe asks for."""
BETA = (0.0, 0.4, 0.5, 0.5)


def write_continuous(path: Path, iterations: int = ITERATIONS, *, closed: bool = True) -> Workspace:
    """Write an evolution of `iterations` iterations and, if `closed`, its end."""
    w = Writer(path, "rounds", "decision_mamba-tiny-seed7", recipe())
    rows = [*slices(), *starts("val", TARGET), *starts("id", TARGET), *starts("probe", PROBE)]
    tasks = w.make(Tasks, "tasks")
    tasks.write(rows)
    prepared = {"tasks": w.put(tasks), "policy": policy(w, 0)}
    w.stage("dataset_prep", 0, 0, {}, prepared, {"num_tasks": float(len(rows))})
    current, champion, test = prepared["policy"], "", ""
    for k in range(iterations + 1):
        current = learn(w, k, prepared["tasks"], current) if k else current
        made = evaluate(w, rows, "val", k, current, champion)
        test = test or evaluate(w, rows, "id", 0, current, "")
        decision = {"action": "continue", "reason": f"reason {k}", "promote": True}
        body = {"iteration": k, "evaluation": made, "baseline": champion, "decision": decision}
        w.workspace.ledger.append("gate", body, {"at": w.now})
        champion = made
    if closed:
        evaluate(w, rows, "id", iterations, current, test)
        close = {"reason": "all done", "iterations": iterations, "policy": current, "champion": current}
        w.workspace.ledger.append("close", close, {"at": w.now})
    return w.workspace


def recipe() -> dict[str, Any]:
    """Return what the ledger stores of the recipe, as far as anything reads it."""
    return {
        "name": "decision_mamba",
        "scale": "tiny",
        "paper": "arXiv 2406.05427",
        "clock": "rounds",
        "iterations": ITERATIONS,
        "inner_steps": 1,
        "curriculum": {"strategy": "uniform"},
        "rollout": {"strategy": "propose"},
        "update": {"strategy": "sequence", "lr": 1e-3},
        "evaluate": {"strategy": "simulate", "splits": ["val"]},
        "test": {"strategy": "simulate", "splits": ["id"]},
        "dataset_prep": {"strategy": "offline"},
    }


def slices() -> list[TaskRow]:
    """Return two slices per logged episode; the level of a slice is the return of its episode."""
    return [
        _task(
            f"{arm}/train/{number}{half}",
            arm,
            "train",
            value,
            {"episode": f"{arm}/{number}", "start": half * 10, "end": half * 10 + 10},
            {},
            0,
        )
        for arm, values in RETURNS.items()
        for number, value in enumerate(values)
        for half in (0, 1)
    ]


def starts(split: str, asked: float) -> list[TaskRow]:
    """Return the start states of a pool. The name of the environment's references is not to be trusted with markup."""
    reference = {"random": RANDOM, "expert": EXPERT, "source": "Pendulum-v1, <i>measured</i>"}
    arm = f"target {asked:g}"
    return [
        _task(
            f"{arm}/{split}/{i}",
            arm,
            split,
            asked,
            {"env": "Pendulum-v1", "target_return": asked, "reset_seed": 100 + i},
            reference,
            100 + i,
        )
        for i in range(STARTS)
    ]


def _task(
    name: str, arm: str, split: str, level: float, features: dict[str, Any], reference: dict[str, Any], seed: int
) -> TaskRow:
    return TaskRow(
        task_id=name,
        arm=arm,
        domain="Pendulum-v1",
        level=level,
        split=split,
        prompt="Pendulum-v1",
        verifier="simulator",
        reference=json.dumps(reference),
        features=json.dumps(features),
        content_hash=name.ljust(64, "0"),
        generator="test/1",
        seed=seed,
    )


def evaluate(w: Writer, tasks: list[TaskRow], split: str, k: int, policy_digest: str, against: str) -> str:
    """Store an evaluation: `split` at the target, and the probes."""
    rows = [_row(t, AT_TARGET[k]) for t in tasks if t.split == split]
    probes = [_row(t, AT_PROBE[k]) for t in tasks if t.split == "probe"]
    made = w.make(Evaluation, "evaluation")
    made.write([*rows, *probes])
    config = SimulateConfig(splits=(split,), min_pairs=2)
    before = Evaluation(w.workspace.cas.get(against), against) if against else None
    found = summarise(rows, [t for t in tasks if t.split == split], policy_digest, before, config)
    asked = split_summary(probes, "probe", config)
    found |= {"probes": {"probe": asked}, "policy": policy_digest, "num_abstained": 0, "num_failed": 0}
    made.write_json("summary.json", found)
    digest = w.put(made)
    inputs = {"policy": policy_digest} | ({"baseline": against} if against else {})
    metrics = {f"{split}/normalised_score": AT_TARGET[k], "probe/normalised_score": AT_PROBE[k]}
    metrics |= {f"{split}/target -150/normalised_score": AT_TARGET[k]}
    w.stage("evaluate", k, 0, inputs, {"evaluation": digest}, metrics)
    return digest


def _row(task: TaskRow, mean: float) -> EvalRow:
    score = mean + SPREAD[task.seed - 100]
    reached = RANDOM + score * (EXPERT - RANDOM)
    return EvalRow(
        task_id=task.task_id,
        arm=task.arm,
        split=task.split,
        sample=-1,
        score=score,
        length=200,
        truncated=True,
        answer=json.dumps({"return": reached, "target": task.level}),
    )


def learn(w: Writer, k: int, tasks: str, policy_digest: str) -> str:
    """Append the four learning stages of iteration `k` and return the new policy."""
    step, made, metrics = k - 1, learning_outputs(w, k - 1, policy_digest), metrics_of(k)
    chosen = {n: made[n] for n in ("batch", "curriculum")}
    w.stage("curriculum", k, step, {"tasks": tasks}, chosen, metrics["curriculum"])
    w.stage("rollout", k, step, {"policy": policy_digest}, {"rollouts": made["rollouts"]}, metrics["rollout"])
    w.stage("reward", k, step, {"rollouts": made["rollouts"]}, {"scores": made["scores"]}, metrics["reward"])
    outputs = {n: made[n] for n in ("trainer", "stats")} | {"policy": policy(w, k)}
    w.stage("update", k, step, {"policy": policy_digest}, outputs, metrics["update"])
    return outputs["policy"]


def metrics_of(k: int) -> dict[str, dict[str, float]]:
    """Return the metrics of the four learning stages of iteration `k`, named as the stages name them."""
    arms = list(RETURNS)
    drawn = {arms[0]: 0.5 - 0.1 * (k - 1), arms[1]: 0.5 + 0.1 * (k - 1)}
    loss, beta = 1.0 / k, BETA[k - 1]
    return {
        "curriculum": {
            "entropy": 0.6,
            **{f"{a}/p": 0.5 for a in arms},
            **{f"{a}/share": v for a, v in drawn.items()},
            **({f"{a}/loss": loss for a in arms} if k > 1 else {}),
        },
        "rollout": {"num_rollouts": 640.0, "num_steps": 6400.0, "shift_mean": 0.4 / k},
        "reward": {"num_rollouts": 640.0, "beta": beta, "shift_mean": 0.4 / k, "return_mean": -400.0 - k},
        "update": {
            "updates": 10.0,
            "num_windows": 640.0,
            "beta": beta,
            "target_shift": beta * 0.4 / k,
            "grad_norm": 1.0 / k,
            "lr": 1e-3,
            "loss": loss,
            "loss/action": 0.9 * loss,
            "loss/state": 0.5 * loss,
            "loss/return": 0.3 * loss,
            "loss_before": loss,
            "loss_after": 0.8 * loss,
            "cosine_pser": 1.0 - beta / 2,
            **{f"arm/{a}/loss_before": loss * (1 + i) for i, a in enumerate(arms)},
            **{f"arm/{a}/loss_change": 0.2 * loss for a in arms},
        },
    }
