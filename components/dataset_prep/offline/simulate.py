"""Records episodes of a Gymnasium environment: `Log` collects steps, and `play` lets a policy act."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from instar.components.dataset_prep.offline.episodes import Episodes, Singles, build
from instar.components.environments import open_environment
from instar.errors import ConfigError


class Log:
    """Steps in the order in which they happened. An episode that has not ended yet is not in `episodes()`.

    All steps are in one array, which doubles when it is full. Millions of small arrays would fragment the memory.
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
        self.num_steps = 0  # steps in the array; `done` of them belong to finished episodes
        self.done = 0

    @property
    def num_episodes(self) -> int:
        """Return the number of finished episodes."""
        return len(self.finished)

    def begin(self, seed: int, behaviour: str, tier: str) -> None:
        """Start an episode. An episode that has not ended is dropped."""
        self.current = {"seed": seed, "behaviour": behaviour, "tier": tier}
        self.num_steps = self.done

    def add(
        self, state: Any, action: Singles, reward: float, terminated: bool, truncated: bool, following: Any
    ) -> None:
        """Add a step. Either flag ends the episode. If both are set, the episode counts as terminated."""
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
        """Return the finished episodes. If there are none, that is a `ConfigError`."""
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
    """Return whole episodes, one per seed. It stops after `steps` steps, after `episodes` episodes, or at the end of the seeds."""
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
