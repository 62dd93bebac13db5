"""Episodes from a gymnasium environment: a log that steps are added to, and a loop that plays a policy."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from instar.components.dataset_prep.offline.episodes import Episodes, Singles, build
from instar.errors import ConfigError, MissingDependencyError


def open_environment(env: str) -> Any:
    """Return the gymnasium environment `env`, a box of one axis on both sides. Raises `MissingDependencyError` or
    `ConfigError`."""
    try:
        import gymnasium
        from gymnasium.error import DependencyNotInstalled, Error
    except ImportError as error:
        raise _missing(str(error), "install instar[control]", env) from error
    try:
        log_mujoco_warnings()
        made = gymnasium.make(env)
    except DependencyNotInstalled as error:
        raise _missing(str(error), "install instar[mujoco]", env) from error
    except (Error, ImportError) as error:
        raise ConfigError(
            expected="an environment that gymnasium has",
            found=str(error).splitlines()[0],
            where=env,
            action="correct the id, or install the package that registers it",
        ) from error
    if any(
        not isinstance(s, gymnasium.spaces.Box) or len(s.shape) != 1
        for s in (made.observation_space, made.action_space)
    ):
        raise ConfigError(
            expected="observations and actions that are boxes of one axis",
            found=f"{made.observation_space} and {made.action_space}",
            where=env,
            action="choose a control task with flat states and continuous actions",
        )
    return made


def log_mujoco_warnings() -> None:
    """Send MuJoCo's warnings to the logger `mujoco` for the rest of the process, where MuJoCo is installed.

    By default it writes them to a file MUJOCO_LOG.TXT in the working directory and to the terminal.
    """
    try:
        mujoco: Any = importlib.import_module("mujoco")
    except ImportError:
        return
    logger = logging.getLogger("mujoco")

    def note(text: str) -> None:
        # Of use to whoever writes the environment's model, not to whoever runs it.
        logger.log(logging.DEBUG if "deprecated" in text else logging.WARNING, "%s", text)

    mujoco.set_mju_user_warning(note)


def _missing(found: str, action: str, env: str) -> MissingDependencyError:
    return MissingDependencyError(expected=f"what {env} needs", found=found, where=env, action=action)


class Log:
    """Steps in the order they happened. An episode that has not ended yet is not part of `episodes()`.

    Steps live in one block that doubles when it is full: millions of small arrays would break up the heap.
    """

    def __init__(self, env: str) -> None:
        simulator = open_environment(env)
        space = simulator.action_space
        self.env, self.low, self.high = env, space.low, space.high
        self.widths = (len(simulator.observation_space.low), len(space.low))
        self.steps = np.empty((1024, sum(self.widths)), np.float32)
        self.rewards = np.empty(1024)
        self.finished: list[dict[str, Any]] = []
        self.current: dict[str, Any] = {}
        self.num_steps = 0  # in the block; `done` of them belong to finished episodes
        self.done = 0

    @property
    def num_episodes(self) -> int:
        """Return the number of finished episodes."""
        return len(self.finished)

    def begin(self, seed: int, behaviour: str, tier: str) -> None:
        """Start an episode; one that was under way is dropped."""
        self.current = {"seed": seed, "behaviour": behaviour, "tier": tier}
        self.num_steps = self.done

    def add(
        self, state: Any, action: Singles, reward: float, terminated: bool, truncated: bool, following: Any
    ) -> None:
        """Add a step; a flag finishes the episode, and a terminal state outweighs a time-out."""
        if self.num_steps == len(self.rewards):
            self.steps = np.concatenate([self.steps, np.empty_like(self.steps)])
            self.rewards = np.concatenate([self.rewards, np.empty_like(self.rewards)])
        row, self.rewards[self.num_steps] = self.steps[self.num_steps], reward
        row[: self.widths[0]], row[self.widths[0] :] = state, action
        self.num_steps += 1
        if terminated or truncated:
            end = {"length": self.num_steps - self.done, "terminated": terminated, "truncated": truncated}
            self.finished.append(self.current | end | {"final": np.asarray(following, np.float32)})
            self.done = self.num_steps

    def episodes(self) -> Episodes:
        """Return the finished episodes. None at all is a `ConfigError`."""
        if not self.finished:
            raise ConfigError(
                expected="at least one finished episode", found="none", where=self.env, action="record more steps"
            )
        columns = {key: [e[key] for e in self.finished] for key in self.finished[0]}
        states, actions = np.split(self.steps[: self.done], [self.widths[0]], axis=1)
        return build(
            self.env,
            action_low=self.low,
            action_high=self.high,
            lengths=columns["length"],
            observations=states.copy(),
            actions=actions.copy(),
            rewards=self.rewards[: self.done].copy(),
            terminated=columns["terminated"],
            truncated=columns["truncated"],
            tier=columns["tier"],
            behaviour=columns["behaviour"],
            seeds=columns["seed"],
            final_observations=columns["final"],
        )


def play(
    env: str,
    act: Callable[[Singles], Singles],
    seeds: Iterable[int],
    *,
    tier: str,
    behaviour: str,
    steps: int | None = None,
    episodes: int | None = None,
) -> Episodes:
    """Return whole episodes, one a seed, until `steps` steps or `episodes` episodes are reached or the seeds end."""
    simulator, log = open_environment(env), Log(env)
    for seed in seeds:
        state, _ = simulator.reset(seed=seed)
        log.begin(seed, behaviour, tier)
        over = False
        while not over:
            action = act(state)
            following, reward, terminated, truncated, _ = simulator.step(action)
            log.add(state, action, float(reward), bool(terminated), bool(truncated), following)
            state, over = following, bool(terminated or truncated)
        if (steps and log.num_steps >= steps) or (episodes and log.num_episodes >= episodes):
            break
    return log.episodes()
