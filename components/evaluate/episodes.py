"""Return-conditioned episodes, many at a time: the policy acts for all environments at once, then every environment takes a step.

A lane is one row of the policy's batch, with one environment. When its episode ends, the lane takes the next one. When no
episode is left, the lane leaves the batch. An episode does not depend on its lane or on the other lanes (see `actor.ROWS`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from instar.components.continuous.actor import filled
from instar.components.continuous.config import ContinuousTask
from instar.errors import NumericsError

if TYPE_CHECKING:
    import torch

    from instar.components.continuous.acting import ActingState

EVERY = 50  # a heartbeat follows after this many steps of all lanes


class Actor(Protocol):
    """What acts: a continuous-control policy, or a script with its interface."""

    def init_state(self, batch: int, *, window: bool = False) -> ActingState:
        """Return the state before the first step of `batch` episodes."""
        ...

    def step(
        self,
        state: ActingState,
        returns_to_go: torch.Tensor,
        states: torch.Tensor,
        previous_actions: torch.Tensor | None,
        timesteps: torch.Tensor,
    ) -> tuple[torch.Tensor, ActingState]:
        """Return actions [B, A] and the next state."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """The return that an episode is asked for, and the seed of its start state."""

    target: float
    """Return that is asked for, without discount and scale."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """The result of an episode. `truncated` says that a time limit ended it, and not the environment."""

    total: float
    """Return of the episode, without discount."""
    length: int
    truncated: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Lanes:
    """One row per lane. A lane without an episode has number -1. A lane that only fills up the batch has no environment."""

    environments: list[Any]
    number: npt.NDArray[np.int64]  # of the condition
    states: npt.NDArray[np.float32]  # [B, S]
    actions: npt.NDArray[np.float32]  # [B, A], of the step before
    togo: npt.NDArray[np.float64]  # return still to come, over the scale
    total: npt.NDArray[np.float64]  # reward so far
    steps: npt.NDArray[np.int64]
    fresh: npt.NDArray[np.bool_]  # before the first step of an episode

    @property
    def live(self) -> npt.NDArray[np.int64]:
        """Return the lanes that have an episode."""
        return np.flatnonzero(self.number >= 0)

    def begin(self, lane: int, number: int, condition: Condition, scale: float) -> None:
        """Begin an episode on a lane."""
        state, _ = self.environments[lane].reset(seed=condition.seed)
        self.number[lane], self.states[lane], self.fresh[lane] = number, state, True
        self.togo[lane], self.total[lane], self.steps[lane] = condition.target / scale, 0.0, 0

    def select(self, index: npt.NDArray[np.int64]) -> Lanes:
        """Return some of the lanes."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "environments"}
        chosen = {name: array[index] for name, array in arrays.items()}
        return Lanes(environments=[self.environments[lane] for lane in index], **chosen)


def run_episodes(
    actor: Actor,
    task: ContinuousTask,
    conditions: Sequence[Condition],
    environments: Sequence[Any],
    *,
    window: bool = False,
    delayed: bool = False,
    device: str = "cpu",
    heartbeat: Callable[[int], None] = lambda done: None,
) -> list[Episode]:
    """Return one episode per condition, in their order, on one lane per environment.

    The return-to-go begins at target / scale and falls by reward / scale at every step. With `delayed` it stays constant, as it
    does where the whole return is paid at the end. Actions are clipped to the bounds of the task. Raises `NumericsError` for a
    state, action or reward that is not finite.
    """
    waiting, out = deque(range(len(conditions))), dict[int, Episode]()
    lanes = _empty_lanes(task, environments[: len(conditions)])
    state = actor.init_state(len(lanes.number), window=window)
    turns = 0
    while len(out) < len(conditions):
        for lane in _idle(lanes)[: len(waiting)]:
            number = waiting.popleft()
            lanes.begin(lane, number, conditions[number], task.return_scale)
        state, lanes = _tidy(state, lanes, device)
        state = _act(actor, state, lanes, task, device)
        for lane in lanes.live.tolist():
            ended = _advance(lanes, lane, 0.0 if delayed else task.return_scale)
            if ended is not None:
                out[int(lanes.number[lane])] = ended
                lanes.number[lane], lanes.steps[lane] = -1, 0
        turns += 1
        if turns % EVERY == 0 or len(out) == len(conditions):
            heartbeat(len(out))
    return [out[number] for number in range(len(conditions))]


def _empty_lanes(task: ContinuousTask, environments: Sequence[Any]) -> Lanes:
    rows = filled(len(environments))
    return Lanes(
        environments=[*environments, *[None] * (rows - len(environments))],
        number=np.full(rows, -1, np.int64),
        states=np.zeros((rows, task.state_dim), np.float32),
        actions=np.zeros((rows, task.action_dim), np.float32),
        togo=np.zeros(rows),
        total=np.zeros(rows),
        steps=np.zeros(rows, np.int64),
        fresh=np.zeros(rows, np.bool_),
    )


def _idle(lanes: Lanes) -> list[int]:
    return [i for i in np.flatnonzero(lanes.number < 0).tolist() if lanes.environments[i] is not None]


def _tidy(state: ActingState, lanes: Lanes, device: str) -> tuple[ActingState, Lanes]:
    """Reset the policy's state on lanes with a new episode, and remove lanes that are no longer needed."""
    import torch

    live = lanes.live
    if filled(len(live)) < len(lanes.number):
        others = np.setdiff1d(np.arange(len(lanes.number)), live)[: filled(len(live)) - len(live)]
        index = np.concatenate([live, others])
        state, lanes = state.select(torch.from_numpy(index).to(device)), lanes.select(index)
    if lanes.fresh.any():
        state = state.reset(torch.from_numpy(lanes.fresh).to(device))
        lanes.fresh[:] = False
    return state, lanes


def _act(actor: Actor, state: ActingState, lanes: Lanes, task: ContinuousTask, device: str) -> ActingState:
    """Write the next actions into the lanes, and return the policy's next state."""
    import torch

    togo, states, previous, steps = (
        torch.from_numpy(value.copy()).to(device)
        for value in (lanes.togo.astype(np.float32), lanes.states, lanes.actions, lanes.steps)
    )
    with torch.no_grad():
        actions, state = actor.step(state, togo, states, previous, steps)
    low, high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)
    lanes.actions = np.clip(actions.cpu().numpy().astype(np.float32), low, high)
    if not np.isfinite(lanes.actions[lanes.live]).all():
        raise _not_finite("actions", "go back to an earlier policy, because the weights of this one have diverged")
    return state


def _advance(lanes: Lanes, lane: int, scale: float) -> Episode | None:
    """Take a step on one lane, and return its episode if it ended. `scale` 0 leaves the return-to-go unchanged."""
    following, reward, terminated, truncated, _ = lanes.environments[lane].step(lanes.actions[lane].copy())
    lanes.states[lane] = following
    lanes.total[lane] += float(reward)
    lanes.togo[lane] -= float(reward) / scale if scale else 0.0
    lanes.steps[lane] += 1
    if not (np.isfinite(lanes.states[lane]).all() and np.isfinite(lanes.total[lane])):
        raise _not_finite("states and rewards", "check the environment, because the simulation has become unstable")
    if not (terminated or truncated):
        return None
    total, length = float(lanes.total[lane]), int(lanes.steps[lane])
    return Episode(total=total, length=length, truncated=bool(truncated and not terminated))


def _not_finite(what: str, action: str) -> NumericsError:
    return NumericsError(expected=f"finite {what}", found="NaN or infinity", where="evaluate.simulate", action=action)
