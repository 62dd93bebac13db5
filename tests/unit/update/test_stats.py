"""Arm statistics on hand-computed groups: unfiltered, with failed scores and lost rollouts marked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from instar.artifact import ArmStats
from instar.components.update.config import Filter, PolicyGradientConfig
from instar.components.update.presets import preset
from instar.rows import ArmStatsRow
from unit.update.world import World, score_row


def _rows(stats: ArmStats) -> dict[str, ArmStatsRow]:
    return {row.arm: row for row in stats.read()}


@pytest.fixture
def scored(world: World) -> World:
    """easy: g0 all right, g2 one of four. hard: g1 format reward only, g3 one valid score and a lost row."""
    table = {
        "g0": [(1.0, 1.0)] * 4,
        "g1": [(0.0, 0.1), (0.0, 0.1), (0.0, 0.0), (0.0, 0.0)],
        "g2": [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)],
        "g3": [(1.0, 1.0), None, None],
    }
    world.scores = []
    for group, scores in table.items():
        for i, pair in enumerate(scores):
            row = score_row(f"{group}/{i}", *(pair or (None, None)), status="scored" if pair else "failed")
            world.scores.append(row)
    world.rollouts = [r for r in world.rollouts if r.rollout_id != "g3/3"]
    world.rollouts = [replace(r, truncated=r.rollout_id in ("g0/0", "g1/2")) for r in world.rollouts]
    return world


def test_hand_computed(scored: World) -> None:
    outs, metrics = scored.update(PolicyGradientConfig(eps=1e-9, lr=1e-5))
    easy, hard = (_rows(outs.stats)[arm] for arm in ("easy", "hard"))
    lengths = {r.rollout_id: len(r.behaviour_logprobs) for r in scored.rollouts}
    assert (easy.num_prompts, easy.num_rollouts, easy.num_invalid) == (2, 8, 0)
    assert (easy.num_zero_variance, easy.num_all_right, easy.num_all_wrong, easy.num_kept) == (1, 1, 0, 2)
    assert (easy.sum_correct, easy.sum_reward) == (5.0, 5.0)
    assert easy.sum_abs_advantage == pytest.approx(3.0)  # 1.5 + 3 * .5
    assert easy.sum_abs_advantage_correct == pytest.approx(3.0)
    assert easy.sum_abs_centred == pytest.approx(1.5)
    assert easy.num_truncated == 1
    assert easy.sum_tokens == sum(n for name, n in lengths.items() if name[:2] in ("g0", "g2"))
    # The group with one valid score is dropped: it is counted as drawn, and nowhere else.
    assert (hard.num_prompts, hard.num_rollouts, hard.num_invalid) == (2, 4, 3)
    assert (hard.num_zero_variance, hard.num_all_right, hard.num_all_wrong, hard.num_kept) == (0, 0, 1, 1)
    assert hard.sum_abs_advantage == pytest.approx(4 * 0.05 / math.sqrt(4 * 0.05**2 / 3))
    assert (hard.sum_abs_advantage_correct, hard.sum_abs_centred_correct) == (0.0, 0.0)
    assert hard.sum_abs_centred == pytest.approx(0.2)
    assert (metrics["num_invalid"], metrics["num_dropped_groups"]) == (3, 1)
    assert metrics["arm/hard/all_wrong_share"] == 1.0
    assert metrics["arm/easy/reward_mean"] == pytest.approx(5 / 8)


def test_a_filter_does_not_change_the_statistics(scored: World) -> None:
    plain, _ = scored.update(PolicyGradientConfig(lr=1e-5))
    filtered, metrics = scored.update(
        PolicyGradientConfig(lr=1e-5, filter=Filter(kind="zero_variance", keep_prompts=1))
    )
    for before, after in zip(plain.stats.read(), filtered.stats.read(), strict=True):
        assert replace(after, num_kept=before.num_kept) == before
    assert sum(row.num_kept for row in filtered.stats.read()) == 1
    assert metrics["kept_share"] == pytest.approx(1 / 3)


def test_the_advantage_is_the_configured_one(scored: World) -> None:
    outs, _ = scored.update(preset("dr_grpo", lr=1e-5, max_length=8))
    easy = _rows(outs.stats)["easy"]
    assert easy.sum_abs_advantage == pytest.approx(1.5) == easy.sum_abs_centred
    assert easy.sum_abs_advantage_correct == pytest.approx(3.0, rel=1e-3)


def test_expected_absolute_advantage_of_a_solve_rate() -> None:
    """SEC section 2: the mean |A| of groups of 8 at solve rates .1, .25, .5 is .39, .71, .87."""
    from instar.components.update.advantages import advantages

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20_000), 8)
    for p, expected in ((0.1, 0.39), (0.25, 0.71), (0.5, 0.87)):
        values = (rng.random(len(group)) < p).astype(np.float64)
        a = advantages(values, group, 20_000, baseline="group", scale="group_std", eps=1e-6)
        assert np.abs(a).mean() == pytest.approx(expected, rel=0.02)
