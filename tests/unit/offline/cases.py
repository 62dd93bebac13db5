"""Data sets with known numbers and a comparison to the bit."""

from __future__ import annotations

import numpy as np

from instar.components.dataset_prep.offline.episodes import Episodes, build


def hopper_like(lengths: list[int], seed: int = 0, tier: str = "medium") -> Episodes:
    """Return episodes of random numbers with Hopper's dimensions; episodes of 1000 steps time out, others terminate."""
    rng, total = np.random.default_rng(seed), sum(lengths)
    timed_out = np.array(lengths) == 1000
    return build(
        "Hopper-v5",
        action_low=[-1.0] * 3,
        action_high=[1.0] * 3,
        lengths=lengths,
        observations=rng.normal(size=(total, 11)),
        actions=rng.uniform(-1, 1, (total, 3)),
        rewards=rng.normal(size=total),
        terminated=~timed_out,
        truncated=timed_out,
        tier=tier,
        behaviour="test",
        seeds=np.arange(len(lengths)) + 7,
        final_observations=rng.normal(size=(len(lengths), 11)),
    )


def same(a: Episodes, b: Episodes, *, final: bool = True) -> None:
    """Assert that two data sets are equal to the bit."""
    assert a.env == b.env
    names = ["action_low", "action_high", "lengths", "observations", "actions", "rewards", "returns_to_go"]
    names += ["terminated", "truncated", "tier", "behaviour", "seeds"]
    if final and a.final_observations is not None:
        names.append("final_observations")
    assert not final or (a.final_observations is None) == (b.final_observations is None)
    for name in names:
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype.kind == right.dtype.kind and np.array_equal(left, right), name
