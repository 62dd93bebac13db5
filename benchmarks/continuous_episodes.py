"""Evaluation episodes of a continuous-control policy: 32 at once against one at a time, carried state against re-reading
the window.

One at a time is how offline-RL code usually evaluates: one environment, one row a step, the last K steps read again each
time. Episodes are Pendulum-v1 cut at 40 steps; the returns of all ways are compared in the same run. Times are per step of
an environment, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import Cost, compare, interleave, medians

from instar.components.continuous.config import (
    Arch,
    BcArch,
    ContinuousTask,
    DecisionMambaArch,
    DecisionTransformerArch,
)
from instar.components.evaluate.episodes import Condition, run_episodes

BAR = 5.0
EPISODES, STEPS, ALONE = 32, 40, 4
"""Episodes at once, steps of each, and how many are played for the figure of one at a time."""
ARCHS: dict[str, Arch] = {
    "Decision Mamba, two mixers": DecisionMambaArch(),
    "Decision Mamba, shared gate": DecisionMambaArch(fusion="shared_gate"),
    "Decision Transformer": DecisionTransformerArch(),
    "behaviour cloning": BcArch(),
}
TASK = ContinuousTask(
    env="BenchmarkPendulum-v0",
    state_dim=3,
    action_dim=1,
    action_low=(-2.0,),
    action_high=(2.0,),
    state_mean=(0.0, 0.0, 0.0),
    state_std=(0.7, 0.7, 3.0),
    return_scale=200.0,
)
CONDITIONS = [Condition(target=-150.0, seed=seed) for seed in range(EPISODES)]


def run() -> list[dict[str, Any]]:
    """Return one row per architecture."""
    import gymnasium
    import torch

    from instar.components.continuous.build import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gymnasium.register(TASK.env, "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=STEPS)
    environments = [gymnasium.make(TASK.env, disable_env_checker=True) for _ in range(EPISODES)]
    out = []
    for name, arch in ARCHS.items():
        model, totals = build(arch, TASK, 0), dict[str, list[float]]()
        sides: dict[str, Callable[[], Cost]] = {}
        for kind in ("carried", "window"):
            sides[f"alone_{kind}"] = lambda m=model, k=kind, t=totals: alone(m, environments[0], k, t)
            sides[f"together_{kind}"] = lambda m=model, k=kind, t=totals: together(m, environments, k, t)
        costs = interleave(sides, 5)
        for kind in ("carried", "window"):
            assert np.allclose(totals[f"alone_{kind}"], totals[f"together_{kind}"][:ALONE], atol=0.1)
        row: dict[str, Any] = {"row": name, "unit": "per environment step"}
        row |= {side: medians(found) for side, found in costs.items()}
        row["carried_together_to_alone"] = compare(costs["alone_carried"], costs["together_carried"])
        row["window_together_to_alone"] = compare(costs["alone_window"], costs["together_window"])
        row["carried_together_to_window_alone"] = compare(costs["alone_window"], costs["together_carried"])
        row["carried_to_window"] = compare(costs["together_window"], costs["together_carried"])
        if isinstance(arch, DecisionMambaArch):
            met = row["carried_together_to_alone"]["ratio_cpu"] >= BAR
            row |= {"bar": f"carried, together to alone >= {BAR} (CPU)", "met": met}
        out.append(row)
    torch.set_num_threads(threads)
    del gymnasium.registry[TASK.env]
    return out


def together(model: Any, environments: list[Any], kind: str, totals: dict[str, list[float]]) -> Cost:
    """Play all episodes at once."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run_episodes(model, TASK, CONDITIONS, environments, window=kind == "window")
    totals[f"together_{kind}"] = [episode.total for episode in found]
    return per_step(wall, cpu, EPISODES)


def alone(model: Any, environment: Any, kind: str, totals: dict[str, list[float]]) -> Cost:
    """Play a few episodes one after the other, with one row a step."""
    import torch

    wall, cpu = time.perf_counter(), time.process_time()
    found = []
    for condition in CONDITIONS[:ALONE]:
        state, carried = environment.reset(seed=condition.seed)[0], model.init_state(1, window=kind == "window")
        togo, total, previous = condition.target / TASK.return_scale, 0.0, None
        for step in range(STEPS):
            seen = torch.from_numpy(np.asarray(state, np.float32)[None])
            acted, carried = model.step(
                carried, torch.tensor([togo], dtype=torch.float32), seen, previous, torch.tensor([step])
            )
            previous = acted
            state, reward, *_ = environment.step(acted[0].numpy())
            togo, total = togo - float(reward) / TASK.return_scale, total + float(reward)
        found.append(total)
    totals[f"alone_{kind}"] = found
    return per_step(wall, cpu, ALONE)


def per_step(wall: float, cpu: float, episodes: int) -> Cost:
    """Return the cost since then per step of an environment."""
    count = episodes * STEPS
    return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
