"""Rules of the strategies other than SEC, by hand or by count. About 1 s."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from instar.components.curriculum import config as c
from instar.components.curriculum import probabilities as prob
from instar.components.curriculum.learnability import Learnability
from instar.components.curriculum.ordered import Ordered
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw
from instar.components.curriculum.proximal import Proximal
from instar.components.curriculum.thompson import Thompson
from instar.components.curriculum.uniform import Uniform
from instar.errors import ConfigError
from instar.rows import ArmStatsRow

Simulate = Callable[..., ArmStatsRow]
MakeArms = Callable[[Sequence[int]], list[Arm]]


def draw(step: int = 0) -> Draw:
    return Draw(evolution="e", step=step, key="e")


def test_uniform_takes_every_prompt_once_per_pass(arms: MakeArms) -> None:
    uniform = Uniform(c.UniformConfig(prompts=7, group_size=2), arms([3, 5, 6]))
    labels = [arm for step in range(4) for arm, _ in uniform.select(7, draw(step))]
    assert Counter(labels[:14]) == Counter(labels[14:]) == {"arm0": 3, "arm1": 5, "arm2": 6}
    assert labels[:14] != labels[14:]


def test_uniform_is_uniform_over_prompts(arms: MakeArms) -> None:
    uniform = Uniform(c.UniformConfig(prompts=4, group_size=2), arms([30, 10]))
    assert dict(uniform.select(40, draw())) == {"arm0": 0.75, "arm1": 0.25}


def test_uniform_starts_a_new_pass_when_pools_change(arms: MakeArms) -> None:
    uniform = Uniform(c.UniformConfig(prompts=4, group_size=2), arms([3, 5]))
    uniform.select(4, draw())
    state = uniform.state_dict()
    grown = Uniform(uniform.config, arms([3, 5, 4]))
    grown.load_state_dict({**state, "sizes": {**state["sizes"], "arm2": None}})
    assert Counter(a for a, _ in grown.select(12, draw(1))) == {"arm0": 3, "arm1": 5, "arm2": 4}
    shrunk = Uniform(uniform.config, arms([3]))
    shrunk.load_state_dict({**state, "sizes": {"arm0": 3}})
    assert (shrunk.cursor.epoch, shrunk.cursor.position) == (1, 0)


@pytest.mark.parametrize(("kind", "expected"), [("ordered", "001122"), ("reverse", "221100")])
def test_levels_get_equal_shares_of_the_plan(arms: MakeArms, kind: str, expected: str) -> None:
    make = {"ordered": c.OrderedConfig, "reverse": c.ReverseConfig}[kind]
    strategy = Ordered(make(prompts=4, group_size=2, steps=6), arms([9, 9, 9]))
    seen = []
    for step in range(8):
        chosen = {arm for arm, _ in strategy.select(4, draw(step))}
        assert len(chosen) == 1
        seen.append(chosen.pop()[-1])
        assert strategy.metrics()[f"arm{seen[-1]}/p"] == 1.0
    assert "".join(seen) == expected + expected[-1] * 2


def test_arms_of_one_level_share_their_time() -> None:
    pools = [Arm(name=name, level=level, size=9, digest="d") for name, level in [("a", 3.0), ("b", 4.0), ("c", 3.0)]]
    strategy = Ordered(c.OrderedConfig(prompts=4, group_size=2, steps=3), pools)
    assert strategy.probabilities(0).tolist() == strategy.probabilities(1).tolist() == [0.5, 0.0, 0.5]
    assert strategy.probabilities(2).tolist() == [0.0, 1.0, 0.0]


def test_proximal_by_hand(simulate: Simulate, arms: MakeArms) -> None:
    proximal = Proximal(c.ProximalConfig(prompts=4, group_size=2, tau=0.1, floor=0.0), arms([5, 5]))
    row = dataclasses.replace(simulate(np.random.default_rng(0), "arm0", p=0.5), num_rollouts=10, sum_correct=1.0)
    proximal.observe([row])
    assert proximal.q.tolist() == pytest.approx([0.3, 0.5])
    assert proximal.probabilities()[1] / proximal.probabilities()[0] == pytest.approx(np.exp((0.25 - 0.21) / 0.1))


def test_learnability_by_hand(simulate: Simulate, arms: MakeArms) -> None:
    learnability = Learnability(c.LearnabilityConfig(prompts=4, group_size=2, floor=0.05), arms([5, 5]))
    row = dataclasses.replace(simulate(np.random.default_rng(0), "arm0", p=0.5), num_rollouts=10, sum_correct=1.0)
    learnability.observe([row])
    weight = 0.21 / (0.21 + 0.25)
    assert learnability.probabilities() == pytest.approx([0.05 + 0.9 * weight, 0.05 + 0.9 * (1 - weight)])


def test_learnability_of_hopeless_arms_is_uniform(arms: MakeArms) -> None:
    learnability = Learnability(c.LearnabilityConfig(prompts=4, group_size=2), arms([5, 5]))
    learnability.load_state_dict({"rate": {"arm0": 0.0, "arm1": 1.0}})
    assert learnability.probabilities().tolist() == [0.5, 0.5]


def test_thompson_evidence_by_hand(simulate: Simulate, arms: MakeArms) -> None:
    thompson = Thompson(c.ThompsonConfig(prompts=4, group_size=2, decay=0.5), arms([5, 5]))
    row = dataclasses.replace(simulate(np.random.default_rng(0), "arm0", p=0.5), num_rollouts=10, sum_correct=3.0)
    thompson.observe([row])
    thompson.observe([row])
    assert (thompson.right.tolist(), thompson.wrong.tolist()) == ([4.5, 0.0], [10.5, 0.0])
    assert thompson.metrics()["arm0/q"] == pytest.approx(5.5 / 17.0)


def test_thompson_prefers_the_half_solved_arm_and_keeps_the_floor(simulate: Simulate, arms: MakeArms) -> None:
    thompson, rng = Thompson(c.ThompsonConfig(prompts=4, group_size=2), arms([5, 5, 5])), np.random.default_rng(1)
    for _ in range(5):
        thompson.observe([simulate(rng, f"arm{i}", p=p) for i, p in enumerate((0.02, 0.5, 0.98))])
    drawn = Counter(arm for arm, _ in thompson.select(4000, draw()))
    assert thompson.p.tolist() == pytest.approx([0.01, 0.98, 0.01])
    assert drawn["arm1"] / 4000 == pytest.approx(0.98, abs=0.01)


def test_thompson_returns_to_an_arm_it_no_longer_sees(simulate: Simulate, arms: MakeArms) -> None:
    thompson, rng = (
        Thompson(c.ThompsonConfig(prompts=4, group_size=2, floor=0.0), arms([5, 5])),
        np.random.default_rng(1),
    )
    thompson.observe([simulate(rng, "arm0", p=0.01), simulate(rng, "arm1", p=0.5)])
    thompson.select(4, draw())
    before = thompson.p[0]
    for _ in range(80):
        thompson.observe([simulate(rng, "arm1", p=0.9)])
    thompson.select(4, draw())
    assert before < 0.01 < 0.5 < thompson.p[0]


def test_slots_follow_the_stated_probabilities() -> None:
    """Chi-square of 2 degrees over 20,000 slots; 13.8 is the 0.1 % point. An arm of probability 0 never comes."""
    p = np.array([0.7, 0.0, 0.25, 0.05])
    counts = Counter(a for a, _ in prob.draw_arms("abcd", p, 20_000, np.random.default_rng(2)))
    assert counts["b"] == 0
    expected = {"a": 14_000, "c": 5_000, "d": 1_000}
    assert sum((counts[k] - e) ** 2 / e for k, e in expected.items()) < 13.8


def test_arm_of_probability_zero_never_comes_even_at_the_edge() -> None:
    class Zero(np.random.Generator):
        def random(self, *args: object, **more: object) -> np.ndarray:  # type: ignore[override]
            del args, more
            return np.zeros(3)

    assert prob.draw_arms("ab", np.array([0.0, 1.0]), 3, Zero(np.random.PCG64(0))) == [("b", 1.0)] * 3


def test_entropy() -> None:
    assert prob.entropy(np.array([1.0, 0.0])) == 0.0
    assert prob.entropy(np.full(8, 0.125)) == pytest.approx(np.log(8.0))


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: c.UniformConfig(prompts=0, group_size=2), "prompts"),
        (lambda: c.UniformConfig(prompts=4, group_size=0), "group_size"),
        (lambda: c.UniformConfig(prompts=4, group_size=2, oversample=0.5), "oversample"),
        (lambda: c.OrderedConfig(prompts=4, group_size=2, steps=0), "steps"),
        (lambda: c.SecConfig(prompts=4, group_size=1), "group_size"),
        (lambda: c.SecConfig(prompts=4, group_size=2, tau=0.0), "tau"),
        (lambda: c.SecConfig(prompts=4, group_size=2, alpha=1.5), "alpha"),
        (lambda: c.SecConfig(prompts=4, group_size=2, floor=0.7), "floor"),
        (lambda: c.ThompsonConfig(prompts=4, group_size=2, decay=0.0), "decay"),
        (lambda: c.LearnabilityConfig(prompts=4, group_size=2, prior=1.0), "prior"),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ConfigError, match=f"curriculum.{field}"):
        make()


@pytest.mark.parametrize(
    ("prompts", "oversample", "slots"), [(100, 1.1, 110), (64, 2.0, 128), (7, 1.5, 11), (5, 1.0, 5)]
)
def test_oversampling_rounds_up(prompts: int, oversample: float, slots: int) -> None:
    assert c.UniformConfig(prompts=prompts, group_size=2, oversample=oversample).slots == slots
