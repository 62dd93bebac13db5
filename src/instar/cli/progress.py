"""Progress of an evolution: a live panel on a terminal, and one plain line per finished stage anywhere else.

The listener also calls the tracker. When an iteration is over, the tracker sends what is new. When the loop raises, the
tracker marks the run as failed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from instar.events import Event, Listener, StageDone, StageStarted, Unit
from instar.pipelines.reuse import REUSED
from instar.terminal import printable
from instar.timeline import qualified

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

BARS = " ▁▂▃▄▅▆▇█"
SHOWN = ("val", "probe")
"""Pools of tasks for which each arm is shown."""
SALIENT = (
    "val/accuracy",
    "val/reflected_accuracy",
    "judge/balanced_accuracy",
    "judge/drift_alarm",
    "id/accuracy",
    "ood/accuracy",
    "val/normalised_score",
    "id/normalised_score",
    "probe/normalised_score",
    "num_tasks",
    "num_episodes",
    "return_mean",
    "num_rollouts",
    "rollout/num_rollouts",
    "accuracy",
    "reward_mean",
    "reward/accuracy",
    "reward/reward_mean",
    "update/zero_variance_share",
    "zero_variance_share",
    "loss",
    "update/loss",
    "beta",
    "reward/beta",
    "target_shift",
    "update/target_shift",
    "grad_norm",
    "update/grad_norm",
    "curriculum/entropy",
)
MEASURES = {"accuracy": "accuracy", "normalised_score": "score", "return": "return"}
"""Last part of a metric's name -> title in the panel. `val/countdown/accuracy`, for example, is shown under `accuracy`."""
UNITS = {"sample": "rollouts", "propose": "windows"}
"""Strategy of the rollout stage -> name of the items that it produces."""
_INNER = re.compile(r"step (\d+) (\w+)")


class Strategy(Protocol):
    """The part of a strategy's configuration that is shown."""

    @property
    def strategy(self) -> str: ...


class Loop(Protocol):
    """The part of a recipe that is shown."""

    @property
    def name(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def iterations(self) -> int: ...
    @property
    def inner_steps(self) -> int: ...
    @property
    def rollout(self) -> Strategy: ...


class Syncs(Protocol):
    """The methods of a tracker that the listener calls."""

    warn: Callable[[str], None]

    def sync(self, *, force: bool = False) -> bool: ...

    def fail(self) -> None: ...


class State:
    """How far the loop is, according to its events. `clock` is a monotonic clock in seconds."""

    def __init__(self, recipe: Loop, clock: Callable[[], float] = time.monotonic) -> None:
        self.recipe, self.clock = recipe, clock
        self.began = clock()
        self.iteration, self.stage, self.unit = 0, "", ""
        self.steps_done = self.steps_run = 0
        self.rollouts = 0.0
        self.measured: dict[str, dict[str, float]] = {}
        self.shares: dict[str, float] = {}
        self._stage_began = self.began
        self._first_run: float | None = None

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, StageStarted):
            self.iteration, self.stage, self.unit, self._stage_began = event.iteration, event.stage, "", self.clock()
        elif isinstance(event, Unit):
            self.unit = event.name
            inner = _INNER.fullmatch(event.name)
            if inner:
                self._learned(inner[2], int(inner[1]), event.metrics, run=True)
        elif event.stage == "fused":
            self._segment(event)
        else:
            self._learned(event.stage, event.step, event.entry.body["metrics"], run=not event.cached)

    def _segment(self, event: StageDone) -> None:
        """Take in a fused segment. Its inner steps were counted already, unless it was cached or ran in another process."""
        metrics = event.entry.body["metrics"]
        end, units_seen = event.step + int(metrics["inner_steps"]), self.steps_done > event.step
        self._measured(
            "curriculum", {k.removeprefix("curriculum/"): v for k, v in metrics.items() if k.startswith("curriculum/")}
        )
        if not event.cached and not units_seen:
            self._first_run = self._stage_began if self._first_run is None else self._first_run
            self.steps_run += end - event.step
            self.rollouts += metrics.get("rollout/num_rollouts", 0.0) * (end - event.step)
        self.steps_done = end

    def _learned(self, stage: str, step: int, metrics: Mapping[str, float], *, run: bool) -> None:
        self._measured(stage, metrics)
        if run and self._first_run is None and stage not in ("dataset_prep", "evaluate"):
            self._first_run = self._stage_began
        if stage == "update":
            self.steps_done = step + 1
            self.steps_run += run
        if stage == "rollout" and run:
            self.rollouts += metrics.get("num_rollouts", 0.0)

    def _measured(self, stage: str, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            split = name.split("/")
            if stage == "evaluate" and len(split) == 3 and split[0] in SHOWN and split[2] in MEASURES:
                self.measured.setdefault(MEASURES[split[2]], {})[split[1]] = value
            parts = qualified("curriculum", name).split("/") if stage == "curriculum" else []
            if len(parts) == 3 and parts[2] == "p":
                self.shares[parts[1]] = value

    @property
    def elapsed(self) -> float:
        """Seconds since the listener was made."""
        return self.clock() - self.began

    @property
    def share(self) -> float:
        """Share of the planned inner steps that is done."""
        total = self.recipe.iterations * self.recipe.inner_steps
        return min(1.0, self.steps_done / total) if total else 1.0

    def rate(self) -> str:
        """Return the rate of this process: rollouts or windows per second, or inner steps per minute if there are none.

        The text is empty until the first step is done.
        """
        seconds = self.clock() - self._first_run if self._first_run is not None else 0.0
        if seconds <= 0 or not self.steps_run:
            return ""
        return (
            f"{self.rollouts / seconds:,.0f} {UNITS.get(self.recipe.rollout.strategy, 'rollouts')}/s"
            if self.rollouts
            else f"{60 * self.steps_run / seconds:.3g} steps/min"
        )

    def left(self) -> float | None:
        """Return how many seconds the rest should take, estimated from the steps that this process ran."""
        if not self.steps_run or self._first_run is None:
            return None
        total = self.recipe.iterations * self.recipe.inner_steps
        return (self.clock() - self._first_run) / self.steps_run * max(0, total - self.steps_done)


@contextmanager
def make_listener(recipe: Loop, tracker: Syncs | None = None, console: Console | None = None) -> Iterator[Listener]:
    """Yield the listener of a run. It shows progress on `console` (default: standard output) and calls `tracker`."""
    from rich.console import Console

    screen = console or Console()
    state = State(recipe)
    if tracker is not None:
        tracker.warn = lambda message: screen.print(printable(message), markup=False, highlight=False, soft_wrap=True)
    shown = _live(state, screen) if screen.is_terminal else _lines(state, screen)
    try:
        with shown as show:
            yield _listener(state, show, tracker)
    except BaseException:
        if tracker is not None:
            tracker.fail()
        raise


def _listener(state: State, show: Listener, tracker: Syncs | None) -> Listener:
    def listen(event: Event) -> None:
        over = isinstance(event, StageStarted) and event.iteration != state.iteration
        state(event)
        show(event)
        if over and tracker is not None:
            tracker.sync()

    return listen


@contextmanager
def _lines(state: State, console: Console) -> Iterator[Listener]:
    def show(event: Event) -> None:
        if isinstance(event, StageDone):
            console.print(printable(line(state, event)), markup=False, highlight=False, soft_wrap=True)

    yield show


@contextmanager
def _live(state: State, console: Console) -> Iterator[Listener]:
    from rich.live import Live

    with Live(console=console, get_renderable=lambda: panel(state), refresh_per_second=4, transient=False) as live:
        yield lambda event: live.refresh() if isinstance(event, StageDone) else None


def line(state: State, event: StageDone) -> str:
    """Return the plain line of a finished stage."""
    body, time_ = event.entry.body, event.entry.time
    spent = "cached" if event.cached or REUSED in time_ else f"{float(time_.get('perf/wall_s', 0.0)):.2f} s"
    numbers = " ".join(f"{n}={body['metrics'][n]:.4g}" for n in SALIENT if n in body["metrics"])
    where = f"iteration {event.iteration}/{state.recipe.iterations}"
    step = "" if event.stage in ("dataset_prep", "evaluate") else f" step {event.step}"
    return f"{where} {event.stage}{step} {spent} {numbers}".rstrip()


def panel(state: State) -> RenderableType:
    """Return the live panel: position and time, stage and rate, then scores, returns and curriculum shares per arm."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = state.left()
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(f"{state.recipe.name} {state.recipe.scale}", style="bold"),
        Text(f"iteration {state.iteration}/{state.recipe.iterations}"),
        ProgressBar(total=1.0, completed=state.share, width=24),
        Text(f"{state.share:.0%}"),
        Text(f"{_clock(state.elapsed)} elapsed" + (f", {_clock(left)} left" if left is not None else "")),
    )
    grid = Table.grid()
    grid.add_row(head)
    grid.add_row(
        Text(
            printable(" · ".join(filter(None, (state.stage, state.unit, state.rate())))),
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )
    )
    for title, values in ({**state.measured, "curriculum": state.shares}).items():
        if values:
            text = numbers(values) if title == "return" else bars(values)
            grid.add_row(Text(printable(f"{title:<10} {text}"), no_wrap=True, overflow="ellipsis"))
    return grid


def numbers(values: Mapping[str, float]) -> str:
    """Return `arm -123` for every arm in order of name. Returns have no bar, because they have no known maximum."""
    return "  ".join(f"{name} {value:,.0f}" for name, value in sorted(values.items()))


def bars(values: Mapping[str, float]) -> str:
    """Return for example `arm ▅ 0.54` for every arm in order of name. The bar has eight heights."""
    return "  ".join(f"{name} {bar(value)} {value:.2f}" for name, value in sorted(values.items()))


def bar(value: float) -> str:
    """Return the bar of a score. It is blank at 0 and below and full from 1 on. Any score above 0 has a visible bar."""
    return BARS[0] if value <= 0 else BARS[max(1, min(8, round(8 * value)))]


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
