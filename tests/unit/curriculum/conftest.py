"""Simulated arms: groups of rollouts with known solve and format rates, reduced to the rows an update would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from instar.artifact import Tasks
from instar.components.curriculum.pool import Arm
from instar.contract import Context
from instar.rows import ArmStatsRow, TaskRow

Simulate = Callable[..., ArmStatsRow]
MakeTasks = Callable[..., Tasks]
MakeContext = Callable[..., Context]


def _abs_advantage(rewards: np.ndarray, scaled: bool) -> float:
    """Sum of |A| over [groups, n]; A = r - mean, divided by unbiased std + 1e-6 when scaled, 0 where max == min."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    centred[rewards.max(axis=1) == rewards.min(axis=1)] = 0.0
    if scaled:
        centred = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    return float(np.abs(centred).sum())


def simulate_row(
    rng: np.random.Generator,
    arm: str = "a",
    *,
    p: float,
    formatted: float = 0.0,
    groups: int = 64,
    n: int = 8,
    format_reward: float = 0.1,
) -> ArmStatsRow:
    """Rewards: 1 with probability p, else `format_reward` with probability `formatted`, else 0."""
    correct = (rng.random((groups, n)) < p).astype(float)
    neat = (rng.random((groups, n)) < formatted) & (correct == 0.0)
    rewards = correct + format_reward * neat
    flat = rewards.max(axis=1) == rewards.min(axis=1)
    return ArmStatsRow(
        arm=arm,
        num_prompts=groups,
        num_rollouts=groups * n,
        num_invalid=0,
        sum_correct=float(correct.sum()),
        sum_reward=float(rewards.sum()),
        sum_abs_advantage=_abs_advantage(rewards, True),
        sum_abs_advantage_correct=_abs_advantage(correct, True),
        sum_abs_centred=_abs_advantage(rewards, False),
        sum_abs_centred_correct=_abs_advantage(correct, False),
        num_zero_variance=int(flat.sum()),
        num_all_right=int((correct.min(axis=1) == 1.0).sum()),
        num_all_wrong=int((correct.max(axis=1) == 0.0).sum()),
        num_kept=groups,
        num_truncated=0,
        sum_tokens=groups * n,
    )


def make_arms(sizes: Sequence[int]) -> list[Arm]:
    return [Arm(name=f"arm{i}", level=float(i), size=size, digest=f"d{i}") for i, size in enumerate(sizes)]


def task_rows(sizes: dict[str, int], edition: str = "", split: str = "train") -> list[TaskRow]:
    return [
        TaskRow(
            task_id=f"{arm}/{split}/{i}",
            arm=arm,
            domain="toy",
            level=float(rank),
            split=split,
            prompt=f"{arm} {i}?",
            verifier="exact",
            reference='{"answer": "x"}',
            features="{}",
            content_hash=f"{edition}{arm}-{i}-{split}".ljust(64, "0"),
            generator="toy/1",
            seed=i,
        )
        for rank, (arm, size) in enumerate(sizes.items())
        for i in range(size)
    ]


@pytest.fixture
def simulate() -> Simulate:
    return simulate_row


@pytest.fixture
def arms() -> Callable[[Sequence[int]], list[Arm]]:
    return make_arms


@pytest.fixture
def rows() -> Callable[..., list[TaskRow]]:
    return task_rows


@pytest.fixture
def make_tasks(tmp_path: Path) -> MakeTasks:
    def build(items: list[TaskRow], digest: str = "") -> Tasks:
        folder = tmp_path / f"tasks-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        tasks = Tasks(folder, digest)
        tasks.write(items)
        return tasks

    return build


@pytest.fixture
def context(tmp_path: Path) -> MakeContext:
    def build(step: int, evolution: str = "evo", **more: object) -> Context:
        return Context(evolution=evolution, step=step, stage="curriculum", scratch=tmp_path, **more)  # type: ignore[arg-type]

    return build
