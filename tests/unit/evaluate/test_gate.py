"""The gate's table. Under 1 s."""

from __future__ import annotations

from typing import Any

import pytest

from instar import config as configs
from instar.errors import ConfigError, ContractError
from instar.pipelines.gate import Decision, GateConfig, decide

Summary = dict[str, Any]


def summary(accuracy: float, verdict: str = "", low: float = 0.0, high: float = 0.0, **more: Any) -> Summary:
    comparison = None
    if verdict:
        known = verdict != "unknown" or low != high
        values = {"difference": (low + high) / 2, "low": low, "high": high}
        comparison = {"verdict": verdict, "reason": "why", **(values if known else dict.fromkeys(values))}
    return {"splits": {"val": {"score": accuracy, "comparison": comparison}, **more}}


BETTER, EQUAL_AHEAD, EQUAL_BEHIND = ("better", 0.01, 0.2), ("equal", -0.01, 0.1), ("equal", -0.02, 0.01)
WORSE, MUCH_WORSE, UNKNOWN, NO_PAIRS = (
    ("worse", -0.1, -0.03),
    ("worse", -0.3, -0.1),
    ("unknown", -0.1, 0.1),
    ("unknown",),
)


@pytest.mark.parametrize(
    ("comparison", "action", "promote"),
    [
        ((), "continue", True),
        (BETTER, "continue", True),
        (EQUAL_AHEAD, "continue", True),
        (EQUAL_BEHIND, "continue", False),
        (WORSE, "hold", False),
        (MUCH_WORSE, "rollback", False),
        (UNKNOWN, "hold", False),
        (NO_PAIRS, "hold", False),
    ],
)
def test_comparison_alone(comparison: tuple[Any, ...], action: str, promote: bool) -> None:
    decision = decide([summary(0.4), summary(0.5, *comparison)], GateConfig(rollback_margin=0.05))
    assert (decision.action, decision.promote) == (action, promote)
    assert decision.reason


@pytest.mark.parametrize(
    ("comparison", "action", "promote"),
    [
        (BETTER, "stop", True),
        (EQUAL_AHEAD, "stop", True),
        (EQUAL_BEHIND, "continue", False),
        (UNKNOWN, "hold", False),
        (WORSE, "hold", False),
        (MUCH_WORSE, "rollback", False),
    ],
)
def test_target_stops_with_a_promoted_policy_only(comparison: tuple[Any, ...], action: str, promote: bool) -> None:
    """A lucky accuracy above the target that the interval does not support would leave a champion below it."""
    decision = decide([summary(0.7), summary(0.9, *comparison)], GateConfig(target=0.9))
    assert (decision.action, decision.promote) == (action, promote)


@pytest.mark.parametrize(
    ("accuracies", "patience", "min_delta", "action"),
    [
        ([0.5, 0.5, 0.5], 2, 0.0, "stop"),
        ([0.5, 0.5], 2, 0.0, "continue"),
        ([0.5, 0.4, 0.6], 2, 0.0, "continue"),
        ([0.6, 0.7, 0.7, 0.69], 2, 0.0, "stop"),
        ([0.6, 0.7, 0.71, 0.72], 2, 0.05, "stop"),
        ([0.6, 0.7, 0.71, 0.76], 2, 0.05, "continue"),
        ([0.5, 0.5, 0.5, 0.5], 0, 0.0, "continue"),
    ],
)
def test_plateau(accuracies: list[float], patience: int, min_delta: float, action: str) -> None:
    history = [summary(a) for a in accuracies[:-1]] + [summary(accuracies[-1], *EQUAL_AHEAD)]
    assert decide(history, GateConfig(patience=patience, min_delta=min_delta)).action == action


def test_plateau_ends_a_run_that_can_never_tell() -> None:
    history = [summary(0.5), *(summary(0.5, *UNKNOWN) for _ in range(3))]
    decision = decide(history, GateConfig(patience=3))
    assert (decision.action, decision.promote) == ("stop", False)


def test_rollback_comes_before_a_plateau() -> None:
    history = [summary(0.5), summary(0.5, *UNKNOWN), summary(0.2, *MUCH_WORSE)]
    assert decide(history, GateConfig(patience=1)).action == "rollback"


ALARM = [{"name": "judge_drift", "reason": "the judge fell"}]


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize(
    ("comparison", "action"),
    [((), "hold"), (BETTER, "hold"), (EQUAL_BEHIND, "hold"), (WORSE, "hold"), (UNKNOWN, "hold"), (NO_PAIRS, "hold")],
)
def test_an_alarm_promotes_nothing(comparison: tuple[Any, ...], action: str, select: Any) -> None:
    history = [summary(0.4), {**summary(0.95, *comparison), "alarms": ALARM}]
    decision = decide(history, GateConfig(select=select, target=0.9))
    assert (decision.action, decision.promote, decision.reason) == (action, False, "alarm: the judge fell")


def test_a_rollback_stays_one_under_an_alarm_and_an_old_alarm_is_over() -> None:
    fallen = {**summary(0.2, *MUCH_WORSE), "alarms": ALARM}
    assert decide([summary(0.5), fallen], GateConfig()).action == "rollback"
    assert decide([summary(0.5), fallen, {**summary(0.6, *BETTER), "alarms": []}], GateConfig()).promote


def test_a_plateau_ends_a_run_under_a_standing_alarm() -> None:
    history = [summary(0.5), *({**summary(0.5, *BETTER), "alarms": ALARM} for _ in range(3))]
    decision = decide(history, GateConfig(patience=3))
    assert (decision.action, decision.promote) == ("stop", False) and "alarm" in decision.reason


def test_test_splits_select_nothing() -> None:
    """Whatever id and ood say, the decision is the same; without val there is no decision."""
    base = decide([summary(0.5, *EQUAL_AHEAD)], GateConfig(target=0.9))
    brilliant = {"score": 1.0, "comparison": {"verdict": "better", "difference": 0.9, "low": 0.8, "high": 1.0}}
    assert decide([summary(0.5, *EQUAL_AHEAD, id=brilliant, ood=brilliant)], GateConfig(target=0.9)) == base
    with pytest.raises(ContractError, match="no policy is selected on a test split"):
        decide([{"splits": {"id": brilliant}}], GateConfig())


def test_decision_is_plain_data() -> None:
    decision = decide([summary(0.5)], GateConfig())
    assert configs.from_dict(Decision, configs.to_dict(decision)) == decision


@pytest.mark.parametrize("changes", [{"target": 1.5}, {"patience": -1}, {"min_delta": -0.1}, {"rollback_margin": -0.1}])
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"gate\."):
        GateConfig(**changes)
