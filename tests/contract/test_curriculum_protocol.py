"""Every curriculum strategy against its protocol: exact state, determinism, finite metrics, refusals. About 6 s."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar import config as configs
from instar.components.curriculum.config import Config, SecConfig
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, Strategy
from instar.errors import LedgerError
from instar.rows import ArmStatsRow

ARMS = [Arm(name=f"arm{i}", level=float(i), size=10 + i, digest=f"d{i}") for i in range(4)]
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
    found: Config = configs.from_dict(Config, data)
    return found


def stats_of(numbers: Mapping[str, tuple[int, int]]) -> list[ArmStatsRow]:
    """Rows of arms with (groups, right answers) of 4 rollouts per group; sums are plain functions of both."""
    zero = {f.name: 0 for f in dataclasses.fields(ArmStatsRow)}
    rows = []
    for arm, (groups, right) in numbers.items():
        rate = right / (4 * groups)
        sums = {name: 4 * groups * 2.0 * math.sqrt(rate * (1 - rate)) for name in zero if name.startswith("sum_abs")}
        counts = {
            "num_prompts": groups,
            "num_rollouts": 4 * groups,
            "sum_correct": float(right),
            "sum_reward": float(right),
            "sum_loss_change": float(right) - 2.0 * groups,
        }
        rows.append(ArmStatsRow(**{**zero, **sums, **counts, "arm": arm}))  # type: ignore[arg-type]
    return rows


@st.composite
def histories(draw: st.DrawFn) -> list[list[ArmStatsRow]]:
    """Batches of statistics in which any arm may be absent."""
    out = []
    for _ in range(draw(st.integers(1, 5))):
        groups = {arm.name: draw(st.integers(0, 6)) for arm in ARMS}
        out.append(stats_of({a: (g, draw(st.integers(0, 4 * g))) for a, g in groups.items() if g}))
    return out


def play(strategy: Strategy, history: list[list[ArmStatsRow]], first: int = 0) -> list[Any]:
    out: list[Any] = []
    for step, stats in enumerate(history, start=first):
        strategy.observe(stats)
        out.append(strategy.select(9, Draw(evolution="e", step=step, key="k")))
    return out


def reload(strategy: Strategy, config: Config) -> Strategy:
    """Pass the state through JSON text into a fresh instance."""
    fresh = config.build(ARMS)
    fresh.load_state_dict(json.loads(json.dumps(strategy.state_dict(), allow_nan=False)))
    return fresh


def test_every_configuration_of_the_union_has_a_variant() -> None:
    names = {get_args(get_type_hints(kind)["strategy"])[0] for kind in get_args(Config)}
    # `own` runs a class of the user's: tests/unit/curriculum/test_own.py
    assert names - {"own"} == {name.partition("-")[0] for name in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=15)
@given(history=histories(), data=st.data())
def test_saved_and_restored_at_any_step_goes_on_the_same(variant: str, history: Any, data: st.DataObject) -> None:
    config = config_of(variant)
    cut = data.draw(st.integers(0, len(history)))
    whole, part = config.build(ARMS), config.build(ARMS)
    expected = play(whole, history)
    before = play(part, history[:cut])
    restored = reload(part, config)
    assert restored.state_dict() == part.state_dict()
    assert before + play(restored, history[cut:], cut) == expected
    assert restored.state_dict() == whole.state_dict()
    assert restored.metrics() == whole.metrics()


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=15)
@given(history=histories())
def test_selection_and_metrics_are_proper(variant: str, history: Any) -> None:
    strategy = config_of(variant).build(ARMS)
    names = {arm.name for arm in ARMS}
    for step, stats in enumerate(history):
        strategy.observe(stats)
        pairs = strategy.select(9, Draw(evolution="e", step=step, key="k"))
        metrics = strategy.metrics()
        assert len(pairs) == 9 and {arm for arm, _ in pairs} <= names
        assert all(p == metrics[f"{arm}/p"] > 0.0 for arm, p in pairs)
        assert sum(metrics[f"{name}/p"] for name in names) == pytest.approx(1.0)
        assert all(math.isfinite(v) for v in metrics.values())
        assert 0.0 <= metrics["entropy"] <= math.log(4) + 1e-9


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_the_statistics_does_not_matter(variant: str) -> None:
    rows = stats_of({"arm0": (3, 2), "arm1": (2, 5), "arm3": (4, 9)})
    states = []
    for order in (rows, rows[::-1]):
        strategy = config_of(variant).build(ARMS)
        play(strategy, [order])
        states.append(strategy.state_dict())
    assert states[0] == states[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_incomplete_state_is_refused(variant: str) -> None:
    """Every field and every arm of every field, taken away or added, is noticed."""
    config = config_of(variant)
    strategy = config.build(ARMS)
    play(strategy, [stats_of({"arm0": (3, 2)})])
    state = strategy.state_dict()
    broken = [{k: v for k, v in state.items() if k != field} for field in state] + [{**state, "surplus": 1}]
    for field, value in state.items():
        if isinstance(value, dict):
            broken += [{**state, field: {k: v for k, v in value.items() if k != "arm2"}}]
            broken += [{**state, field: {**value, "arm9": 0.0}}]
    for bad in broken:
        with pytest.raises(LedgerError):
            config.build(ARMS).load_state_dict(bad)


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
    config = config_of(variant)
    needs, row_type = config.requires(), {f.name for f in dataclasses.fields(ArmStatsRow)}
    assert needs <= {f"stats.{column}" for column in row_type}
    rows = stats_of({"arm0": (3, 2), "arm1": (4, 8)})
    noise: dict[str, Any] = {column: 77 for column in row_type - {"arm"} if f"stats.{column}" not in needs}
    noisy = [dataclasses.replace(r, **noise) for r in rows]
    plain, other = config.build(ARMS), config.build(ARMS)
    assert play(plain, [rows, rows]) == play(other, [noisy, noisy])
    assert plain.state_dict() == other.state_dict()


@pytest.mark.parametrize("variant", ["sec-fixed", "thompson", "proximal", "learnability"])
def test_floor_keeps_every_arm_alive(variant: str) -> None:
    strategy = config_of(variant).build(ARMS)
    for _ in range(30):
        strategy.observe(stats_of({"arm0": (6, 12), "arm1": (6, 0), "arm2": (6, 24), "arm3": (6, 0)}))
    strategy.select(9, Draw(evolution="e", step=0, key="k"))
    assert min(strategy.metrics()[f"{arm.name}/p"] for arm in ARMS) >= 0.01 - 1e-12


def test_writing_the_strategy_swaps_the_config() -> None:
    found = configs.merge(_Holder(curriculum=SecConfig(**BASE)), {"curriculum": {"strategy": "thompson", **BASE}})
    assert found.curriculum.strategy == "thompson"
    single: Literal["hold"] = "hold"
    one = configs.merge(_Holder(curriculum=SecConfig(**BASE)), {"curriculum": {"absent": single}})
    assert isinstance(one.curriculum, SecConfig) and one.curriculum.switches.absent == "hold"
    assert configs.from_dict(SecConfig, configs.to_dict(one.curriculum)) == one.curriculum


def test_draws_of_different_steps_differ() -> None:
    strategy = config_of("sec").build(ARMS)
    labels = Counter(
        tuple(a for a, _ in strategy.select(30, Draw(evolution="e", step=step, key="k"))) for step in range(20)
    )
    assert max(labels.values()) == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Holder:
    curriculum: Config
