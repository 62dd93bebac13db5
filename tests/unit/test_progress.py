"""Progress displays, from hand-made events. About 2 s."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console

from instar.cli.progress import State, bar, bars, make_listener
from instar.components.rollout.config import ProposeConfig, SampleConfig
from instar.events import Event, StageDone, StageStarted, Unit
from instar.ledger import Entry


@dataclass
class Loop:
    name: str = "sec"
    scale: str = "tiny"
    iterations: int = 2
    inner_steps: int = 2
    rollout: Any = field(default_factory=lambda: SampleConfig(max_new_tokens=4))


@dataclass
class Tracked:
    """Records what the listener asks of a tracker."""

    syncs: int = 0
    failed: int = 0
    warn: Any = None
    said: list[str] = field(default_factory=list)

    def sync(self, *, force: bool = False) -> bool:
        self.syncs += 1
        if self.syncs == 1:
            self.warn("tracking: [server] is down")
        return force

    def fail(self) -> None:
        self.failed += 1


def done(stage: str, iteration: int, step: int, metrics: dict[str, float], *, cached: bool = False) -> StageDone:
    body = {
        "stage": stage,
        "iteration": iteration,
        "step": step,
        "key": "k",
        "inputs": {},
        "outputs": {},
        "metrics": metrics,
    }
    return StageDone(
        stage, iteration, step, Entry(seq=0, prev="", kind="stage", body=body, time={"perf/wall_s": 1.5}), cached
    )


def iteration(k: int) -> list[Event]:
    events: list[Event] = []
    for step in (2 * k - 2, 2 * k - 1):
        for stage, metrics in (
            ("curriculum", {"curriculum/sort-03/p": 0.25, "curriculum/sort-04/p": 0.75, "curriculum/entropy": 0.5}),
            ("rollout", {"num_rollouts": 100.0}),
            ("reward", {"accuracy": 0.5}),
            ("update", {"grad_norm": 1.0}),
        ):
            events += [StageStarted(stage, k, step), Unit("half", {}), done(stage, k, step, metrics)]
    events += [
        StageStarted("evaluate", k, 0),
        done("evaluate", k, 0, {"val/accuracy": 0.5, "val/sort-03/accuracy": 0.9}),
    ]
    return events


def test_not_a_terminal_gets_one_line_per_stage() -> None:
    out = io.StringIO()
    with make_listener(Loop(), None, Console(file=out, width=40)) as listen:
        for event in iteration(1):
            listen(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[1] == "iteration 1/2 rollout step 0 1.50 s num_rollouts=100"
    assert lines[-1] == "iteration 1/2 evaluate 1.50 s val/accuracy=0.5"
    assert "\x1b" not in out.getvalue()


def test_cached_stages_say_so() -> None:
    out = io.StringIO()
    with make_listener(Loop(), None, Console(file=out, width=40)) as listen:
        listen(done("rollout", 1, 0, {}, cached=True))
    assert out.getvalue() == "iteration 1/2 rollout step 0 cached\n"


def test_terminal_shows_position_rate_and_bars() -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    with make_listener(Loop(), None, console) as listen:
        for event in iteration(1):
            listen(event)
    last = out.getvalue().split("\x1b[2K")[-1] or out.getvalue()
    shown = out.getvalue()
    assert (
        "iteration 1/2" in shown and "50%" in shown and "elapsed" in shown and "left" in shown and "rollouts/s" in shown
    )
    assert "sort-03 ▇ 0.90" in shown and "sort-03 ▂ 0.25  sort-04 ▆ 0.75" in shown
    assert last


def test_time_left_and_rate_by_hand() -> None:
    now = [0.0]
    state = State(Loop(), clock=lambda: now[0])
    for step in (0, 1):
        for stage, metrics in (("curriculum", {}), ("rollout", {"num_rollouts": 100.0}), ("update", {})):
            state(StageStarted(stage, 1, step))
            state(done(stage, 1, step, metrics))
            now[0] += 1.0
    assert (state.steps_done, state.share) == (2, 0.5)
    assert state.left() == pytest.approx(6.0)  # 6 s for 2 steps, 2 of 4 left
    assert state.rate() == "33 rollouts/s"


def test_resumed_stages_count_as_done_but_not_for_the_rate() -> None:
    now = [0.0]
    state = State(Loop(), clock=lambda: now[0])
    state(done("rollout", 1, 0, {"num_rollouts": 100.0}, cached=True))
    state(done("update", 1, 0, {}, cached=True))
    assert (state.steps_done, state.rate(), state.left()) == (1, "", None)
    state(done("fused", 2, 2, {"inner_steps": 2.0}, cached=True))
    assert state.share == 1.0 and state.left() is None


def test_fused_units_move_the_display() -> None:
    now = [0.0]
    state = State(Loop(), clock=lambda: now[0])
    state(StageStarted("fused", 1, 0))
    state(Unit("step 0 curriculum", {"curriculum/sort-03/p": 1.0}))
    state(Unit("step 0 rollout", {"num_rollouts": 50.0}))
    now[0] = 5.0
    state(Unit("step 0 update", {}))
    assert (state.steps_done, state.shares, state.rate(), state.left()) == (1, {"sort-03": 1.0}, "10 rollouts/s", 15.0)
    state(Unit("step 1 update", {}))
    state(done("fused", 1, 0, {"inner_steps": 2.0, "rollout/num_rollouts": 50.0}))
    assert (state.steps_done, state.steps_run, state.rollouts) == (2, 2, 50.0)


def test_fused_segment_of_another_process_counts_once() -> None:
    now = [0.0]
    state = State(Loop(), clock=lambda: now[0])
    state(StageStarted("fused", 1, 0))
    now[0] = 5.0
    state(
        done("fused", 1, 0, {"inner_steps": 2.0, "rollout/num_rollouts": 50.0, "curriculum/curriculum/sort-03/p": 1.0})
    )
    assert (state.steps_done, state.shares, state.rate(), state.left()) == (2, {"sort-03": 1.0}, "20 rollouts/s", 5.0)


def control(k: int) -> list[Event]:
    """The events of one iteration of a continuous-control recipe, with the names that its stages use."""
    arm = "val/target -150"
    found = [
        ("curriculum", {"random 100%/p": 0.5, "random 100%/share": 0.4, "random 40%/p": 0.5}),
        ("rollout", {"num_rollouts": 640.0, "shift_mean": 0.4}),
        ("reward", {"num_rollouts": 640.0, "beta": 0.25, "return_mean": -360.0}),
        (
            "update",
            {"loss": 0.5, "beta": 0.25, "target_shift": 0.1, "grad_norm": 0.75, "arm/random 100%/loss_change": 0.1},
        ),
    ]
    events: list[Event] = [e for stage, m in found for e in (StageStarted(stage, k, k - 1), done(stage, k, k - 1, m))]
    score = {"val/normalised_score": 0.75, f"{arm}/normalised_score": 0.75, f"{arm}/return": -420.5}
    probe = {
        "probe/normalised_score": -0.25,
        "probe/target -900/normalised_score": -0.25,
        "probe/target -900/return": -1500.0,
    }
    return [*events, StageStarted("evaluate", k, 0), done("evaluate", k, 0, score | probe)]


def test_control_recipes_show_scores_returns_loss_and_windows() -> None:
    loop, out = Loop(inner_steps=1, rollout=ProposeConfig()), io.StringIO()
    with make_listener(loop, None, Console(file=out, width=40)) as listen:
        for event in control(1):
            listen(event)
    lines = out.getvalue().splitlines()
    assert lines[2] == "iteration 1/2 reward step 0 1.50 s return_mean=-360 num_rollouts=640 beta=0.25"
    assert lines[3] == "iteration 1/2 update step 0 1.50 s loss=0.5 beta=0.25 target_shift=0.1 grad_norm=0.75"
    assert lines[4] == "iteration 1/2 evaluate 1.50 s val/normalised_score=0.75 probe/normalised_score=-0.25"
    out = io.StringIO()
    with make_listener(loop, None, Console(file=out, width=120, force_terminal=True, color_system=None)) as listen:
        for event in control(1):
            listen(event)
    shown = out.getvalue()
    assert "windows/s" in shown and "rollouts/s" not in shown and "accuracy" not in shown
    assert "score      target -150 ▆ 0.75  target -900   -0.25" in shown
    assert "return     target -150 -420  target -900 -1,500" in shown


def test_tracker_syncs_between_iterations_and_warns_on_the_console() -> None:
    out, tracked = io.StringIO(), Tracked()
    with make_listener(Loop(), tracked, Console(file=out, width=40)) as listen:
        for event in [StageStarted("dataset_prep", 0, 0), *iteration(1), *iteration(2)]:
            listen(event)
    assert (tracked.syncs, tracked.failed) == (2, 0)
    assert "tracking: [server] is down\n" in out.getvalue()


def test_failure_reaches_the_tracker_and_goes_on_up() -> None:
    tracked = Tracked()
    with pytest.raises(KeyboardInterrupt), make_listener(Loop(), tracked, Console(file=io.StringIO())):
        raise KeyboardInterrupt
    assert tracked.failed == 1


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, " "), (0.001, "▁"), (0.5, "▄"), (1.0, "█"), (1.7, "█"), (-1.0, " ")]
)
def test_bars(value: float, shown: str) -> None:
    assert bar(value) == shown
    assert bars({"b": 0.5, "a": value}) == f"a {shown} {value:.2f}  b ▄ 0.50"
