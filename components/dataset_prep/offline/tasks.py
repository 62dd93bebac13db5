"""Environments, the reference returns of a few of them, and the offline tasks of the paper with their target returns.

`find_simulator` describes any environment that gymnasium knows. `ENVIRONMENTS` are those with published settings. The settings of
all others come from their data (`references.py`).

A score is 0 at the return of a random policy and 1 at that of an expert. The references of MuJoCo tasks are those of D4RL
(d4rl/infos.py), which hold for the v2 environments. The v5 environments of Gymnasium have other physics and rewards. So a score is
labelled, for example, `Hopper-v5, D4RL-normalised`, and it is not a D4RL result. Each reference of Pendulum is the mean of 20,000
measured episodes. Their standard errors are 2.0 (random) and 0.7 (expert).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from instar.components.environments import open_environment
from instar.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Simulator:
    """What the data of an environment must fit: its dimensions, its action box, and its limit of steps."""

    id: str
    state_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    max_steps: int

    @property
    def action_dim(self) -> int:
        """Return how many numbers an action has."""
        return len(self.action_low)


@dataclass(frozen=True, kw_only=True)
class Environment(Simulator):
    """An environment with its reference returns, and with the returns that a policy is asked for."""

    random: float
    expert: float
    scale: float  # returns-to-go are divided by it
    targets: tuple[float, ...]  # returns to ask for; the first one is the pre-registered target
    probes: tuple[float, ...] = ()  # lower returns to ask for; they show whether the policy follows the asked return
    window: int = 20
    encoder: Literal["mlp", "linear"] = "mlp"
    references: str = "D4RL-normalised"

    @property
    def label(self) -> str:
        """Return the label of a score in this environment."""
        return f"{self.id}, {self.references}"


def _mujoco(
    name: str, dims: tuple[int, int], references: tuple[float, float], targets: tuple[float, ...]
) -> Environment:
    return Environment(
        id=f"{name}-v5",
        state_dim=dims[0],
        action_low=(-1.0,) * dims[1],
        action_high=(1.0,) * dims[1],
        max_steps=1000,
        random=references[0],
        expert=references[1],
        scale=1000.0,
        targets=targets,
        probes=(targets[0] / 3,),
        encoder="linear" if name == "Hopper" else "mlp",
    )


ENVIRONMENTS: dict[str, Environment] = {
    e.id: e
    for e in (
        Environment(
            id="Pendulum-v1",
            state_dim=3,
            action_low=(-2.0,),
            action_high=(2.0,),
            max_steps=200,
            random=-1230.3,
            expert=-151.1,
            scale=200.0,
            targets=(-150.0,),
            probes=(-900.0,),
            window=10,
            references="0 random torque, 1 scripted swing-up",
        ),
        _mujoco("Hopper", (11, 3), (-20.272305, 3234.3), (3600.0,)),
        _mujoco("HalfCheetah", (17, 6), (-280.178953, 12135.0), (6000.0, 12000.0, 8000.0, 4500.0)),
        _mujoco("Walker2d", (17, 6), (1.629008, 4592.3), (5000.0,)),
        _mujoco("Ant", (105, 8), (-325.6, 3879.7), (3600.0, 6000.0)),
    )
}
TIERS = ("medium", "medium-expert", "medium-replay")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One offline task: an environment, a tier of data, and the returns to ask for."""

    name: str
    environment: Environment
    tier: str
    targets: tuple[float, ...]
    probes: tuple[float, ...]


def _task(prefix: str, env: str, tier: str) -> Task:
    environment = ENVIRONMENTS[env]
    # Only HalfCheetah has a target that depends on the tier (decision-mamba: 12000 on medium-expert).
    targets = (12000.0,) if (env, tier) == ("HalfCheetah-v5", "medium-expert") else environment.targets
    return Task(name=f"{prefix}-{tier}", environment=environment, tier=tier, targets=targets, probes=environment.probes)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(
            _task(prefix, env, tier)
            for prefix, env in (("halfcheetah", "HalfCheetah-v5"), ("hopper", "Hopper-v5"), ("walker2d", "Walker2d-v5"))
            for tier in TIERS
        ),
        _task("pendulum", "Pendulum-v1", "mixed"),
    )
}


def find_simulator(env: str) -> Simulator:
    """Return the environment `env`: one of `ENVIRONMENTS`, or else any that gymnasium knows.

    Raises what `open_environment` raises, and `ConfigError` for an environment without a limit of steps.
    """
    if env in ENVIRONMENTS:
        return ENVIRONMENTS[env]
    environment = open_environment(env)
    box, limit = environment.action_space, environment.spec.max_episode_steps
    environment.close()
    if limit is None:
        raise ConfigError(
            expected="an environment with a limit of steps, because an episode of a bad policy might never end",
            found="no limit",
            where=env,
            action="register it with max_episode_steps",
        )
    return Simulator(
        id=env,
        state_dim=len(environment.observation_space.low),
        action_low=tuple(box.low.tolist()),
        action_high=tuple(box.high.tolist()),
        max_steps=limit,
    )


def find_task(name: str) -> Task:
    """Return the task `name`, for example `hopper-medium`. An unknown name is a `ConfigError`."""
    if name not in TASKS:
        raise ConfigError(
            expected=f"a task of {', '.join(TASKS)}", found=name, where="task", action=nearest(name, TASKS)
        )
    return TASKS[name]


def normalised(env: str, returns: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return scores, a linear function of returns: 0 at the random reference of `env`, and 1 at the expert reference."""
    environment = ENVIRONMENTS[env]
    span = environment.expert - environment.random
    scores: npt.NDArray[np.float64] = (np.asarray(returns, np.float64) - environment.random) / span
    return scores
