"""Two ways to blind a curriculum bandit, simulated, as Markdown tables.

(a) Format noise: a small reward for a readable wrong answer, divided by the group's standard deviation, looks like
    learnability. Shown: the signal r of such an arm, and how a three-arm race under `faithful` and `fixed` ends.
(b) Filter blindness: statistics taken after a zero-variance filter no longer tell an arm at 2 % from one at 50 %.

Groups of 8 rollouts; A = (r - mean) / (unbiased std + 1e-6). Run: `python benchmarks/bandit_demos.py`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from instar.components.curriculum.config import SecConfig
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw
from instar.components.curriculum.sec import Sec
from instar.rows import ArmStatsRow

Floats = NDArray[np.float64]
GROUP_SIZE, GROUPS, SEED = 8, 200_000, 20_260_101


def sample(rng: np.random.Generator, p: float, formatted: float, groups: int) -> tuple[Floats, Floats]:
    """Return (rewards, correct), each [groups, n]: 1 right, 0.1 wrong but formatted, 0 otherwise."""
    correct = (rng.random((groups, GROUP_SIZE)) < p).astype(np.float64)
    neat = (rng.random((groups, GROUP_SIZE)) < formatted) & (correct == 0.0)
    return correct + 0.1 * neat, correct


def signal(values: Floats, scaled: bool = True, survivors: bool = False) -> float:
    """Return the mean |A| over rollouts; `survivors` drops the groups whose values are all equal first."""
    varied = values.max(axis=1) > values.min(axis=1)
    if survivors:
        values, varied = values[varied], varied[varied]
    centred = np.where(varied[:, None], values - values.mean(axis=1, keepdims=True), 0.0)
    if scaled:
        centred = centred / (values.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    return float(np.abs(centred).mean())


def stats_row(arm: str, rewards: Floats, correct: Floats) -> ArmStatsRow:
    """Return what an update would report of one arm, before any filter."""
    zero = ArmStatsRow(**{f.name: 0 for f in dataclasses.fields(ArmStatsRow) if f.name != "arm"}, arm=arm)
    return dataclasses.replace(
        zero,
        num_prompts=len(rewards),
        num_rollouts=rewards.size,
        sum_correct=float(correct.sum()),
        sum_reward=float(rewards.sum()),
        sum_abs_advantage=signal(rewards) * rewards.size,
        sum_abs_advantage_correct=signal(correct) * rewards.size,
        sum_abs_centred=signal(rewards, scaled=False) * rewards.size,
        sum_abs_centred_correct=signal(correct, scaled=False) * rewards.size,
    )


RACE = {"p = 0, half formatted": (0.0, 0.5), "p = 0.05": (0.05, 0.0), "p = 0.95": (0.95, 0.0)}


def race(mode: Literal["faithful", "fixed"], steps: int = 60, prompts: int = 64) -> dict[str, float]:
    """Return each arm's share of the slots over the second half of a race with constant solve rates."""
    arms = [Arm(name=name, level=0.0, size=10_000, digest="") for name in RACE]
    sec = Sec(SecConfig(prompts=prompts, group_size=GROUP_SIZE, mode=mode), arms)
    rng, total = np.random.default_rng(SEED), Counter[str]()
    for step in range(steps):
        drawn = Counter(arm for arm, _ in sec.select(prompts, Draw(evolution="race", step=step, key="race")))
        sec.observe([stats_row(arm, *sample(rng, *RACE[arm], drawn[arm])) for arm in RACE if drawn[arm]])
        if step >= steps // 2:
            total += drawn
    return {arm: total[arm] / total.total() for arm in RACE}


def format_noise() -> list[dict[str, float | str]]:
    """Return one row per arm of the race: the signals, and the share under both modes."""
    rng, shares = np.random.default_rng(SEED), {mode: race(mode) for mode in ("faithful", "fixed")}
    out: list[dict[str, float | str]] = []
    for arm, (p, formatted) in RACE.items():
        rewards, correct = sample(rng, p, formatted, GROUPS)
        row: dict[str, float | str] = {"arm": arm, "r on reward": signal(rewards)}
        row |= {"r on reward, no std": signal(rewards, scaled=False), "r on correctness": signal(correct)}
        out.append(row | {f"share {mode}": shares[mode][arm] for mode in shares})
    return out


def filter_blindness() -> list[dict[str, float | str]]:
    """Return r before and after the zero-variance filter for several solve rates, and the range of each."""
    rng, out = np.random.default_rng(SEED), list[dict[str, float | str]]()
    for p in (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        _, correct = sample(rng, p, 0.0, GROUPS)
        kept = float((correct.max(axis=1) > correct.min(axis=1)).mean())
        before, after = signal(correct), signal(correct, survivors=True)
        out.append({"solve rate": f"{p:g}", "groups kept": kept, "r before filter": before, "r after filter": after})
    last: dict[str, float | str] = {"solve rate": "largest / smallest"}
    for column in ("groups kept", "r before filter", "r after filter"):
        values = [float(row[column]) for row in out]
        last[column] = max(values) / min(values)
    return [*out, last]


def markdown(rows: list[dict[str, float | str]]) -> str:
    """Return a Markdown table with two digits after the point, three for small numbers."""

    def cell(value: float | str) -> str:
        return value if isinstance(value, str) else f"{value:.2f}" if value >= 0.1 or value == 0.0 else f"{value:.3f}"

    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell(v) for v in row.values()) + " |" for row in rows])


def run() -> list[dict[str, float | str]]:
    """Return all rows, each with the name of its demonstration."""
    named = {"format-noise": format_noise(), "filter-blindness": filter_blindness()}
    return [{"name": name, **row} for name, rows in named.items() for row in rows]


if __name__ == "__main__":
    print("Format noise\n\n" + markdown(format_noise()) + "\n\nFilter blindness\n\n" + markdown(filter_blindness()))
