"""Every curriculum strategy against its protocol: exact state, determinism, finite metrics, refusals. About 6 s."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import config as configs
from instar.components.curriculum.config import Config, SecConfig
from instar.components.curriculum.protocol import Draw, require_fields
from instar.components.curriculum.protocol_checks import (
    ARMS,
    Build,
    complete,
    only_declared,
    order_free,
    problems,
    proper,
    restored,
    stats_of,
)
from instar.rows import ArmStatsRow

BASE: dict[str, Any] = {"prompts": 16, "group_size": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "best": {},
    "ordered": {"steps": 5},
    "reverse": {"steps": 5},
    "sec": {},
    "thompson": {},
    "proximal": {},
    "learnability": {},
    "sec-fixed": {"mode": "fixed"},
    "sec-progress": {"objective": "progress"},
    "sec-normalized": {"method": "normalized_q"},
    "sec-greedy": {"method": "greedy"},
    "sec-loss": {"signal": "loss_change"},
}


def config_of(variant: str) -> Config:
    data = {"strategy": variant.partition("-")[0], **BASE, **VARIANTS[variant]}
    config: Config = configs.from_dict(Config, data)
    return config


@st.composite
def histories(draw: st.DrawFn) -> list[list[ArmStatsRow]]:
    """Batches of statistics in which any arm may be absent."""
    out = []
    for _ in range(draw(st.integers(1, 5))):
        groups = {arm.name: draw(st.integers(0, 6)) for arm in ARMS}
        out.append(stats_of({a: (g, draw(st.integers(0, 4 * g))) for a, g in groups.items() if g}))
    return out


def build_of(variant: str) -> Build:
    return lambda arms: config_of(variant).build(list(arms))


def test_every_configuration_of_the_union_has_a_variant() -> None:
    names = {get_args(get_type_hints(kind)["strategy"])[0] for kind in get_args(Config)}
    # `own` runs a class of the user's: tests/unit/curriculum/test_own.py
    assert names - {"own"} == {name.partition("-")[0] for name in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=15)
@given(history=histories(), data=st.data())
def test_saved_and_restored_at_any_step_goes_on_the_same(variant: str, history: Any, data: st.DataObject) -> None:
    restored(build_of(variant), history, data.draw(st.integers(0, len(history))))


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=15)
@given(history=histories())
def test_selection_and_metrics_are_proper(variant: str, history: Any) -> None:
    proper(build_of(variant), history)


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_the_statistics_does_not_matter(variant: str) -> None:
    order_free(build_of(variant), stats_of({"arm0": (3, 2), "arm1": (2, 5), "arm3": (4, 9)}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_incomplete_state_is_refused(variant: str) -> None:
    """Every field and every arm of every field, taken away or added, is noticed."""
    complete(build_of(variant), stats_of({"arm0": (3, 2)}))


@pytest.mark.parametrize("variant", ["sec", "sec-fixed", "thompson", "proximal", "learnability"])
def test_arm_that_entered_starts_at_the_mean(variant: str) -> None:
    config = config_of(variant)
    strategy = config.build(ARMS[:3])
    strategy.observe(stats_of({"arm0": (3, 2), "arm1": (4, 8)}))
    state = strategy.state_dict()
    entered = {k: {**v, "arm3": None} if isinstance(v, dict) else v for k, v in state.items()}
    grown = config.build(ARMS)
    grown.load_state_dict(entered)
    after = grown.state_dict()
    for field in state.keys() - {"last_reward", "p"}:
        assert after[field]["arm3"] == pytest.approx(sum(state[field].values()) / 3)
        assert {k: after[field][k] for k in state[field]} == pytest.approx(state[field])


@pytest.mark.parametrize("variant", VARIANTS)
def test_declared_columns_exist_and_are_all_that_is_read(variant: str) -> None:
    """Columns outside of the declaration may hold anything: the strategy goes on the same."""
    only_declared(build_of(variant), config_of(variant).requires(), stats_of({"arm0": (3, 2), "arm1": (4, 8)}))


@pytest.mark.parametrize("variant", ["sec-fixed", "thompson", "proximal", "learnability"])
def test_floor_keeps_every_arm_alive(variant: str) -> None:
    strategy = config_of(variant).build(ARMS)
    for _ in range(30):
        strategy.observe(stats_of({"arm0": (6, 12), "arm1": (6, 0), "arm2": (6, 24), "arm3": (6, 0)}))
    strategy.select(9, Draw(evolution="e", step=0, key="k"))
    assert min(strategy.metrics()[f"{arm.name}/p"] for arm in ARMS) >= 0.01 - 1e-12


def test_writing_the_strategy_swaps_the_config() -> None:
    swapped = configs.merge(_Holder(curriculum=SecConfig(**BASE)), {"curriculum": {"strategy": "thompson", **BASE}})
    assert swapped.curriculum.strategy == "thompson"
    single: Literal["hold"] = "hold"
    one = configs.merge(_Holder(curriculum=SecConfig(**BASE)), {"curriculum": {"absent": single}})
    assert isinstance(one.curriculum, SecConfig) and one.curriculum.switches.absent == "hold"
    assert configs.from_dict(SecConfig, configs.to_dict(one.curriculum)) == one.curriculum


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_checks_of_the_command_find_nothing_in_our_strategies(variant: str) -> None:
    assert list(problems(build_of(variant))) == []


class _Forgetful:
    """A strategy over arms with one planted fault."""

    def __init__(self, fault: str) -> None:
        self.fault, self.seen, self.names = fault, 0.0, [arm.name for arm in ARMS]

    def select(self, num: int, draw: Draw) -> list[tuple[str, float]]:
        rng = np.random.default_rng() if self.fault == "own random numbers" else draw.generator()
        names = [*self.names, "arm9"] if self.fault == "unknown arm" else self.names
        start = int(rng.integers(0, len(names))) + int(self.seen)
        p = 0.5 if self.fault == "wrong probability" else 0.25
        return [(names[(start + i) % len(names)], p) for i in range(num - (self.fault == "too few"))]

    def observe(self, stats: Sequence[ArmStatsRow]) -> None:
        if self.fault == "order" and stats:
            self.seen += float(stats[0].num_prompts)
        else:
            self.seen += float(sum(row.num_prompts for row in stats))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.fault == "forgets" else {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.fault not in ("forgets", "takes any state"):
            require_fields(state, ["seen"], "toy")
        self.seen = float(state.get("seen", 0.0))

    def metrics(self) -> dict[str, float]:
        probabilities = {f"{name}/p": 0.25 for name in self.names}
        return probabilities if self.fault == "no entropy" else {**probabilities, "entropy": math.log(4)}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("own random numbers", "selection of a second strategy"),
        ("unknown arm", "arms of"),
        ("wrong probability", "probability of the metric"),
        ("too few", "9 pairs"),
        ("order", "the same rows in reverse"),
        ("forgets", "selection after a restart"),
        ("takes any state", "an error from load_state_dict() for a state without seen"),
        ("no entropy", "`entropy`"),
    ],
)
def test_the_checks_of_the_command_find_planted_faults(fault: str, words: str) -> None:
    assert list(problems(lambda arms: _Forgetful(""))) == []
    assert any(words in error.expected for error in problems(lambda arms: _Forgetful(fault)))


def test_draws_of_different_steps_differ() -> None:
    strategy = config_of("sec").build(ARMS)
    labels = Counter(
        tuple(a for a, _ in strategy.select(30, Draw(evolution="e", step=step, key="k"))) for step in range(20)
    )
    assert max(labels.values()) == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Holder:
    curriculum: Config
