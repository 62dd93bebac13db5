"""Coverage and width of the evaluation's intervals, and what the gate lets through, as Markdown tables.

Worlds draw paired differences of two policies on the tasks of some arms: one answer a task (it is won, lost or the same), several
samples of tasks of all difficulties, and episodes with real-valued returns; some lose all in the smallest arm. Beside the interval
of `components/evaluate/intervals.py` stands the percentile bootstrap over tasks, scaled for small arms, which collapses where few
tasks differ. The gate is the real `decide` on real comparisons. Run: `python benchmarks/gate_coverage.py`; two minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instar.components.evaluate.compare import judge
from instar.components.evaluate.intervals import Interval, limits, moments
from instar.pipelines.gate import GateConfig, decide

Floats = NDArray[np.float64]
Sizes = tuple[int, ...]
SEED, CONFIDENCE, MARGIN = 20_260_201, 0.95, 0.02
ARMS: tuple[Sizes, ...] = (
    (8,),
    (20,),
    (48,),
    (200,),
    (1000,),
    (8, 8, 32),
    (16, 16, 16),
    (2,) * 10,
    (10, 200),
    (64,) * 14,
)
SHARES = (
    (0.0, 0.0),
    (0.0, 0.005),
    (0.0, 0.03),
    (0.01, 0.04),
    (0.05, 0.05),
    (0.05, 0.08),
    (0.3, 0.3),
    (0.3, 0.1),
    (0.0, 0.3),
    (0.0, 0.9),
)
"""Shares of tasks that are won and lost."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A name, the true difference, and the differences of `draws` experiments: one array [draws, n_k] per arm."""

    name: str
    true: float
    draw: Callable[[np.random.Generator, int], list[Floats]]
    bounded: bool = True


def answers(sizes: Sizes, won: float, lost: Sequence[float]) -> World:
    """One answer a task; `lost` is the share of every arm."""

    def draw(rng: np.random.Generator, draws: int) -> list[Floats]:
        drawn = [rng.random((draws, n)) for n in sizes]
        return [(u < won).astype(np.float64) - (u > 1.0 - p) for u, p in zip(drawn, lost, strict=True)]

    name = f"one answer, {shape(sizes)}, won {won:g}, lost {lost[0]:g}" + (" in arm 1" if len(set(lost)) > 1 else "")
    return World(name=name, true=won - float(np.mean(lost)), draw=draw)


def samples(sizes: Sizes, count: int, gain: float) -> World:
    """`count` samples a task; solve rates p from Beta(.3, .3); those of the other policy are p + gain p (1 - p)."""

    def draw(rng: np.random.Generator, draws: int) -> list[Floats]:
        out = []
        for n in sizes:
            p = rng.beta(0.3, 0.3, (draws, n))
            out.append((rng.binomial(count, p + gain * p * (1.0 - p)) - rng.binomial(count, p)) / count)
        return out

    mean = gain * 0.25 * 0.6 / 1.6  # E p (1 - p) = a b / ((a + b) (a + b + 1))
    return World(name=f"{count} samples, {shape(sizes)}, gain {mean:+.3f}", true=mean, draw=draw)


def returns(sizes: Sizes, kind: str, mean: float) -> World:
    """Episodes: differences of returns, normal, heavy-tailed (t, 5 degrees) or skewed (gamma, shape 2), deviation about .1."""

    def draw(rng: np.random.Generator, draws: int) -> list[Floats]:
        makers: dict[str, Callable[[int], Floats]] = {
            "normal": lambda n: rng.normal(0.0, 0.1, (draws, n)),
            "heavy": lambda n: 0.1 * rng.standard_t(5, (draws, n)),
            "skewed": lambda n: 0.1 * (rng.gamma(2.0, 1.0, (draws, n)) - 2.0),
        }
        return [makers[kind](n) + mean for n in sizes]

    return World(name=f"returns, {shape(sizes)}, {kind}", true=mean, draw=draw, bounded=False)


def worlds(arms: Sequence[Sizes] = ARMS, shares: Sequence[tuple[float, float]] = SHARES) -> Iterator[World]:
    """Yield the grid."""
    for sizes in arms:
        for won, lost in shares:
            yield answers(sizes, won, [lost] * len(sizes))
        if len(sizes) > 1:
            for won in (0.0, 0.02):
                first = min(0.9, 0.03 * len(sizes) + won)
                yield answers(sizes, won, [first] + [won] * (len(sizes) - 1))
        if max(sizes) < 1000 and min(sizes) > 2:
            yield from (samples(sizes, count, gain) for count in (4, 8) for gain in (-0.6, 0.9))
            yield from (returns(sizes, kind, -0.03) for kind in ("normal", "heavy", "skewed"))


def shape(sizes: Sizes) -> str:
    """Return sizes as people write them."""
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 and len(sizes) > 1 else "+".join(map(str, sizes))


def covered(world: World, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of intervals that hold the truth, and their mean width."""
    low, high = limits(moments(world.draw(rng, draws)), CONFIDENCE, bounded=world.bounded)
    inside = (low <= world.true + 1e-9) & (high >= world.true - 1e-9)
    return float(inside.mean()), float((high - low).mean())


def bootstrap(world: World, draws: int, rng: np.random.Generator, resamples: int = 400) -> tuple[float, float]:
    """Return the same of a percentile bootstrap over tasks, deviations scaled by sqrt(n / (n - 1))."""
    inside, width = 0, 0.0
    for values in zip(*world.draw(rng, draws), strict=True):
        means = np.zeros(resamples)
        for arm in values:
            drawn = arm[rng.integers(0, arm.size, (resamples, arm.size))].mean(axis=1)
            means += (arm.mean() + math.sqrt(arm.size / (arm.size - 1)) * (drawn - arm.mean())) / len(values)
        low, high = np.quantile(means, [0.025, 0.975])
        inside += bool(low <= world.true + 1e-9 and high >= world.true - 1e-9)
        width += float(high - low)
    return inside / draws, width / draws


def promoted(world: World, draws: int, rng: np.random.Generator) -> float:
    """Return how often the real gate promotes a policy of this world over its champion."""
    found = moments(world.draw(rng, draws))
    low, high = limits(found, CONFIDENCE, bounded=world.bounded)
    config, base = GateConfig(), summary(0.5, None)
    count = 0
    for estimate, *ends in zip(found.estimate, low, high, strict=True):
        interval = Interval(estimate=float(estimate), low=float(ends[0]), high=float(ends[1]))
        count += decide([base, summary(0.5 + interval.estimate, compared(interval))], config).promote
    return count / draws


def compared(interval: Interval) -> dict[str, Any]:
    """Return the comparison that the gate reads."""
    verdict, reason = judge(interval, MARGIN)
    return {
        "verdict": verdict,
        "reason": reason,
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
    }


def summary(score: float, comparison: dict[str, Any] | None) -> dict[str, Any]:
    """Return as much of an evaluation's summary as the gate reads."""
    return {"splits": {"val": {"score": score, "comparison": comparison}}}


def decaying(size: int, looks: int, loss: float, flips: float, draws: int, rng: np.random.Generator) -> Floats:
    """Return the champion's true change after `looks` iterations, each of whose policies is `loss` worse than the one before.

    A task is right or wrong; from one policy to the next it flips with probability `flips`, a right one with `loss` / .5 more. The
    gate compares every policy with the stored answers of the champion of its time, as an evolution does.
    """
    config, ends = GateConfig(), np.zeros(draws)
    for number in range(draws):
        champion = now = rng.random(size) < 0.5
        share, kept = 0.5, 0.5
        for _ in range(looks):
            u, fall = rng.random(size), flips + 2.0 * loss
            now = np.where(now, u >= fall, u < flips)
            share = share * (1.0 - fall) + (1.0 - share) * flips
            found = moments([now.astype(np.float64) - champion])
            low, high = limits(found, CONFIDENCE)
            interval = Interval(estimate=float(found.estimate), low=float(low), high=float(high))
            if decide([summary(0.5, None), summary(0.5, compared(interval))], config).promote:
                champion, kept = now, share
        ends[number] = kept - 0.5
    return ends


def main() -> None:
    """Print the tables."""
    rng = np.random.default_rng(SEED)
    print("| world | coverage | width | bootstrap: coverage | width |\n|---|---|---|---|---|")
    lowest: list[float] = []
    for world in worlds():
        ours, theirs = covered(world, 10_000, rng), bootstrap(world, 200, rng)
        lowest.append(ours[0])
        print(f"| {world.name} | {ours[0]:.3f} | {ours[1]:.3f} | {theirs[0]:.2f} | {theirs[1]:.3f} |", flush=True)
    print(f"\nlowest coverage of {len(lowest)} worlds: {min(lowest):.3f}\n")
    print("| validation tasks | true difference | promoted, one look | at least once in 36 |\n|---|---|---|---|")
    for sizes in ((8, 8, 32), (48,), (200,), (64,) * 14, (1000,)):
        for won, lost in ((0.0, 0.03), (0.05, 0.08), (0.05, 0.06), (0.05, 0.05), (0.08, 0.05), (0.15, 0.05)):
            once = promoted(answers(sizes, won, [lost] * len(sizes)), 10_000, rng)
            print(
                f"| {shape(sizes)} | {won - lost:+.2f} ({won:g} won) | {once:.3f} | {1 - (1 - once) ** 36:.2f} |",
                flush=True,
            )
    print("\n| validation tasks | loss per iteration | over 36 | champion, mean | worst of 20 |\n|---|---|---|---|---|")
    for size in (48, 200, 896):
        for loss in (0.001, 0.005):
            ends = decaying(size, 36, loss, 0.03, 200, rng)
            print(
                f"| {size} | {-loss:+.3f} | {decay(36, loss, 0.03):+.3f} | {ends.mean():+.3f} | {np.quantile(ends, 0.05):+.3f} |",
                flush=True,
            )


def decay(looks: int, loss: float, flips: float) -> float:
    """Return the true change of the last policy of `decaying`."""
    share = 0.5
    for _ in range(looks):
        share = share * (1.0 - flips - 2.0 * loss) + (1.0 - share) * flips
    return share - 0.5


if __name__ == "__main__":
    main()
