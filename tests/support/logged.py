"""Logged control episodes by hand, slices of them, slots of a batch, and continuous-control policies: what offline stages
read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instar.artifact import Policy, Rollouts, Tasks
from instar.components.continuous.config import Arch, BcArch, ContinuousTask, DecisionMambaArch
from instar.contract import WHOLE, Context, Shard
from instar.rows import BatchRow, RolloutRow, TaskRow

PENDULUM = ContinuousTask(
    env="Pendulum-v1",
    state_dim=3,
    action_dim=1,
    action_low=(-2.0,),
    action_high=(2.0,),
    state_mean=(0.0, 0.0, 0.0),
    state_std=(0.7, 0.7, 3.0),
    return_scale=200.0,
)
SMALL = DecisionMambaArch(width=16, layers=2, state_size=4, window=4)


def context(folder: Path, stage: str = "rollout", step: int = 0, shard: Shard = WHOLE) -> Context:
    """Return a context with nothing resident."""
    return Context(evolution="e", step=step, stage=stage, scratch=folder, shard=shard)


def episode(
    name: str, rewards: Sequence[float], arm: str = "mixed", task: ContinuousTask = PENDULUM, **changes: object
) -> RolloutRow:
    """Return an episode with these rewards; states and actions are drawn from the name, inside of the box."""
    generator = np.random.default_rng(sum(map(ord, name)))
    count = len(rewards)
    low, high = np.array(task.action_low), np.array(task.action_high)
    columns = {
        "observations": generator.normal(size=(count, task.state_dim)).astype(np.float32).ravel().tolist(),
        "actions": generator.uniform(low, high, size=(count, task.action_dim)).astype(np.float32).ravel().tolist(),
        "rewards": list(rewards),
        "returns_to_go": [float(sum(rewards[t:])) for t in range(count)],
        "kind": "continuous",
        "offset": 0,
    } | changes
    return RolloutRow(
        rollout_id=name,
        task_id=name,
        arm=arm,
        group_id=name,
        policy="script",
        token_ids=[],
        behaviour_logprobs=[],
        steps=[],
        truncated=True,
        seed=0,
        **columns,  # type: ignore[arg-type]
    )


def data(folder: Path, rows: Sequence[RolloutRow], digest: str = "data") -> Rollouts:
    """Write episodes."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Rollouts(folder, digest)
    out.write(rows)
    return out


def task_row(name: str, split: str, features: object, arm: str = "mixed", reference: object = ("none",)) -> TaskRow:
    """Return a task whose features are JSON of `features`."""
    return TaskRow(
        task_id=name,
        arm=arm,
        domain="Pendulum-v1",
        level=0.0,
        split=split,
        prompt="continuous",
        verifier="return",
        reference=json.dumps(reference),
        features=json.dumps(features),
        content_hash="0" * 64,
        generator="test",
        seed=0,
    )


def slice_task(name: str, episode: str, start: int, end: int, arm: str = "mixed") -> TaskRow:
    """Return a training task of window starts `start` up to `end`."""
    return task_row(name, "train", {"episode": episode, "start": start, "end": end}, arm)


def tasks(folder: Path, rows: Sequence[TaskRow], digest: str = "tasks") -> Tasks:
    """Write tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Tasks(folder, digest)
    out.write(rows)
    return out


def slots(names: Sequence[str], arm: str = "mixed", group_size: int = 1) -> list[BatchRow]:
    """Return a slot per task name."""
    return [
        BatchRow(slot=i, task_id=name, arm=arm, probability=1.0, group_id=f"000000-{i:04d}", group_size=group_size)
        for i, name in enumerate(names)
    ]


def policy(
    folder: Path, arch: Arch = SMALL, task: ContinuousTask = PENDULUM, seed: int = 0, digest: str = "policy"
) -> Policy:
    """Write a policy that has not learned anything; weights of its head are grown so that it does not act like zero."""
    import torch

    from instar.components.continuous.build import build

    model = build(arch, task, seed)
    with torch.no_grad():
        (model.action if isinstance(arch, BcArch) else model.heads.action).weight.mul_(8.0)  # type: ignore[union-attr]
    model.save_pretrained(folder)
    return Policy(folder, digest)
