"""The known environments with their reference returns, and the offline tasks of the paper with their target returns.

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

from instar.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An environment and its reference returns. Every dimension of an action is within [-limit, limit]."""

    id: str
    state_dim: int
    action_dim: int
    limit: float
    max_steps: int
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
        action_dim=dims[1],
        limit=1.0,
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
            action_dim=1,
            limit=2.0,
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


def find_environment(env: str) -> Environment:
    """Return the environment `env`. An unknown id is a `ConfigError` that names the nearest one."""
    if env not in ENVIRONMENTS:
        raise ConfigError(
            expected=f"an environment with references: {', '.join(ENVIRONMENTS)}",
            found=env,
            where="env",
            action=nearest(env, ENVIRONMENTS),
        )
    return ENVIRONMENTS[env]


def find_task(name: str) -> Task:
    """Return the task `name`, for example `hopper-medium`. An unknown name is a `ConfigError`."""
    if name not in TASKS:
        raise ConfigError(
            expected=f"a task of {', '.join(TASKS)}", found=name, where="task", action=nearest(name, TASKS)
        )
    return TASKS[name]


def action_box(env: str) -> tuple[list[float], list[float]]:
    """Return the lowest and highest action of `env`."""
    environment = find_environment(env)
    return [-environment.limit] * environment.action_dim, [environment.limit] * environment.action_dim


def normalised(env: str, returns: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return scores, a linear function of returns: 0 at the random reference of `env`, and 1 at the expert reference."""
    environment = find_environment(env)
    span = environment.expert - environment.random
    scores: npt.NDArray[np.float64] = (np.asarray(returns, np.float64) - environment.random) / span
    return scores
