"""Makes offline data when none can be downloaded. It trains a policy in a simulator and records episodes.

`make_data` takes minutes to an hour on one core. It writes one Parquet file per tier, and the folder can be used at any time:

- `random.parquet`: uniformly random actions.
- `medium-replay.parquet`: the training run, up to the medium policy.
- `medium.parquet`: the first policy that reached the medium return. If none reached it, the best policy.
- `expert.parquet`: the best policy of the training run, if it is better than the medium one.

An environment without published references has no medium return. There the medium policy is the one after half of the steps, and
training goes on to the last step.

At the end it writes the same episodes as Minari data sets below `minari/`, and the measurements in `data.json`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from instar.components.dataset_prep.offline.recording import Job, Run, scaled
from instar.components.dataset_prep.offline.tasks import ENVIRONMENTS, find_simulator
from instar.components.environments import open_environment
from instar.errors import ArtifactError, ConfigError
from instar.store_files import storage_errors


def make_data(job: Job, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, record, and write all tiers below `out`. `say` gets a line of progress at every evaluation.

    Returns the content of `data.json`: for every tier the number of episodes and steps and the mean and deviation of returns, and
    also the settings, the learning curve and the times. A folder that is not empty is an `ArtifactError`. Fewer steps than the
    longest episode are a `ConfigError`. A folder that cannot be written is a `StorageError`. One thread of torch is enough. The
    caller has to set it.
    """
    from instar.components.dataset_prep.offline.sac import Sac, SacConfig

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        content = "files in it" if out.is_dir() else "a file"
        raise ArtifactError(
            expected="an empty folder or a new one", found=content, where=str(out), action="name another folder"
        )
    environment = find_simulator(job.env)
    if (
        job.steps < environment.max_steps
    ):  # the training run might finish no episode, and there would be nothing to record
        raise ConfigError(
            expected=f"at least {environment.max_steps} steps, the longest episode of {job.env}",
            found=str(job.steps),
            where="steps",
            action="train for longer",
        )
    simulator = open_environment(job.env)
    low, high = simulator.action_space.low, simulator.action_space.high
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    config = SacConfig(**({"capacity": min(job.steps, 1_000_000)} | job.sac))
    run = Run(job, out, say, Sac(len(simulator.observation_space.low), len(low), config, job.key("learner")))
    uniform = np.random.default_rng(job.key("random"))
    run.save("random", run.play(lambda _: uniform.uniform(low, high).astype(np.float32), "random", "random"))
    medium, expert = _wanted(job)
    medium_score = _train(run, simulator, medium, expert)
    if medium_score is None:
        run.restore()
        run.record_medium("the best policy met: none reached the wanted return")
    elif run.best[0] > medium_score:
        run.restore()
        run.save("expert", run.play(run.sampled("expert"), "expert", f"sac@{run.best[1]}"))
    return run.summary()


def _wanted(job: Job) -> tuple[float | None, float]:
    """Return the return of the medium policy, or None if it is unknown, and the return at which training ends."""
    published = ENVIRONMENTS.get(job.env)
    medium, expert = job.medium_return, job.expert_return
    if published is not None:
        span = published.expert - published.random
        medium = published.random + span / 3 if medium is None else medium
        expert = published.random + 0.9 * span if expert is None else expert
    return medium, float("inf") if expert is None else expert


def _train(run: Run, simulator: Any, medium: float | None, expert: float) -> float | None:
    """Train the policy, and evaluate it now and then, until it reaches the return `expert` or the budget is used up.

    Records the medium tier at the first evaluation that reaches the return `medium`. Without a medium return, it is the first
    evaluation after half of the steps. Returns the score of that evaluation, or None when there was none.
    """
    job, learner, log = run.job, run.learner, run.log
    noise, uniform = (np.random.default_rng(job.key(item)) for item in ("noise", "warmup"))
    low, high = simulator.action_space.low, simulator.action_space.high
    warmup, state, medium_score = learner.config.warmup, None, None
    for step in range(1, job.steps + 1):
        if state is None:
            seed = job.key(f"train/{log.num_episodes}")
            state, _ = simulator.reset(seed=seed)
            log.begin(seed, "sac in training", "medium-replay")
        drawn = uniform.uniform(-1.0, 1.0, len(low)).astype(np.float32)
        action = drawn if step <= warmup else learner.act(state, noise)
        torque = scaled(action, low, high)
        following, reward, terminated, truncated, _ = simulator.step(torque)
        log.add(state, torque, float(reward), bool(terminated), bool(truncated), following)
        learner.remember(state, action, float(reward), bool(terminated), following)
        state = None if terminated or truncated else following
        if step > warmup:
            learner.update()
        if step > warmup and step % job.evaluate_every == 0:
            score = run.evaluate(step)
            if medium_score is None:
                run.save("medium-replay", log.episodes())
            if medium_score is None and (2 * step >= job.steps if medium is None else score >= medium):
                medium_score = score
                half = "the first evaluation after half of the steps"
                run.record_medium(half if medium is None else f"the first evaluation of at least {medium:.0f}")
            if score >= expert or (job.seconds is not None and time.monotonic() - run.began > job.seconds):
                break
    return medium_score
