"""Pendulum-v1 data of several qualities, without any training: a scripted swing-up controller, mixed with random actions.

The simulator has the equations of Gymnasium's Pendulum-v1 (g 10, mass 1, length 1, 0.05 s a step, torque within 2, speed within
8), for a whole batch of pendulums at once. The angle is 0 when the pendulum stands upright. An episode depends only on its seed
and its rate of random actions. It starts in the same state as `gymnasium.make("Pendulum-v1").reset(seed=seed)`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from instar.components.dataset_prep.offline.episodes import Doubles, Episodes, Singles, build

ENV, STEPS = "Pendulum-v1", 200
TORQUE, SPEED, DT, GRAVITY = 2.0, 8.0, 0.05, 10.0
PUMP, HOLD, DAMP = 1.0, 9.0, 2.5  # torque per unit of energy, angle and speed
REACH = 4.0  # the linear feedback is used when it asks for less torque than this
Controller = Callable[[Doubles, Doubles], Doubles]


def step(angle: Doubles, speed: Doubles, torque: Singles) -> tuple[Doubles, Doubles, Doubles]:
    """Return angles, speeds and rewards [n] after one time step. Torques are clipped to the limit."""
    torque = np.clip(torque, -TORQUE, TORQUE)
    reward = -(wrap(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + (1.5 * GRAVITY * np.sin(angle) + 3.0 * torque) * DT, -SPEED, SPEED)
    return angle + speed * DT, speed, reward


def observe(angle: Doubles, speed: Doubles) -> Singles:
    """Return (cos, sin, speed), [n, 3]."""
    return np.stack([np.cos(angle), np.sin(angle), speed], axis=1).astype(np.float32)


def wrap(angle: Doubles) -> Doubles:
    """Return the angle in [-pi, pi)."""
    out: Doubles = (angle + np.pi) % (2 * np.pi) - np.pi
    return out


def swing_up(angle: Doubles, speed: Doubles) -> Doubles:
    """Return the torque of the controller. It adds energy until the pendulum is near the top, and then holds it by linear
    feedback."""
    angle = wrap(angle)
    energy = 0.5 * speed**2 + 1.5 * GRAVITY * (np.cos(angle) - 1.0)  # 0 at rest upright
    away = np.where(speed == 0.0, np.sign(angle) + (angle == 0.0), np.sign(speed))
    pump = np.clip(-PUMP * energy, -TORQUE, TORQUE) * away
    hold = -(HOLD * angle + DAMP * speed)
    out: Doubles = np.clip(np.where(np.abs(hold) < REACH, hold, pump), -TORQUE, TORQUE)
    return out


def tier(rate: float, seeds: list[int], name: str | None = None, controller: Controller = swing_up) -> Episodes:
    """Return one episode of 200 steps per seed in which each action is uniformly random with probability `rate`."""
    starts = np.array([np.random.default_rng(seed).uniform((-np.pi, -1.0), (np.pi, 1.0)) for seed in seeds])
    # All rates use the same start states and the same random numbers, so tiers differ only by the rate.
    draws = np.stack([np.random.default_rng((seed, 1)).random((2, STEPS)) for seed in seeds], axis=2)
    random = draws[0] < rate
    angle, speed = starts[:, 0], starts[:, 1]
    n = len(seeds)
    observations, actions = np.empty((n, STEPS, 3), np.float32), np.empty((n, STEPS, 1), np.float32)
    rewards = np.empty((n, STEPS))
    for t in range(STEPS):
        observations[:, t] = observe(angle, speed)
        torque = np.where(random[t], TORQUE * (2.0 * draws[1, t] - 1.0), controller(angle, speed)).astype(np.float32)
        actions[:, t, 0] = torque
        angle, speed, rewards[:, t] = step(angle, speed, torque)
    return build(
        ENV,
        action_low=[-TORQUE],
        action_high=[TORQUE],
        lengths=np.full(n, STEPS),
        observations=observations.reshape(-1, 3),
        actions=actions.reshape(-1, 1),
        rewards=rewards.ravel(),
        terminated=np.zeros(n, np.bool_),
        truncated=np.ones(n, np.bool_),
        tier=name or f"eps{rate:g}",
        behaviour=f"swing-up, random at rate {rate:g}",
        seeds=seeds,
        final_observations=observe(angle, speed),
    )
