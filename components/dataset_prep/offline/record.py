"""Making offline data where none can be had: train in a simulator, record the whole training, then record what was learned.

`make_data` is an opt-in job of minutes to an hour on one core. It leaves a folder that is usable at any time:
`<tier>.parquet` for `random`, `medium-replay` (the training run up to the medium policy), `medium` and `expert` (the best
policy met), at the end the same as Minari data sets below `minari/` and `data.json` with what was measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from instar.components.dataset_prep.offline.recording import Job, Run, scaled
from instar.components.dataset_prep.offline.tasks import find_environment
from instar.components.environments import open_environment
from instar.errors import ArtifactError, ConfigError
from instar.store_files import storage_errors


def make_data(job: Job, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, record and write all tiers below `out`; `say` gets a line of progress per evaluation.

    Returns the content of `data.json`: per tier episodes, steps, mean and deviation of returns; settings, learning curve and
    times. A folder that is not empty is an `ArtifactError`, fewer steps than the longest episode a `ConfigError`, a folder
    that cannot be written a `StorageError`. One thread of torch is enough and is the caller's to set.
    """
    from instar.components.dataset_prep.offline.sac import Sac, SacConfig

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        found = "files" if out.is_dir() else "a file"
        raise ArtifactError(
            expected="an empty folder or a new one", found=found, where=str(out), action="name another folder"
        )
    environment = find_environment(job.env)
    if job.steps < environment.max_steps:  # the training run might not finish an episode, and hold nothing to record
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
    span = environment.expert - environment.random
    medium = environment.random + span / 3 if job.medium_return is None else job.medium_return
    expert = environment.random + 0.9 * span if job.expert_return is None else job.expert_return
    medium_score = _train(run, simulator, medium, expert)
    if medium_score is None:
        run.restore()
        run.record_medium("the best policy met: none reached the wanted return")
    elif run.best[0] > medium_score:
        run.restore()
        run.save("expert", run.play(run.sampled("expert"), "expert", f"sac@{run.best[1]}"))
    return run.summary()


def _train(run: Run, simulator: Any, medium: float, expert: float) -> float | None:
    """Act, remember, learn, and evaluate now and then, until the expert's return or the end of the budget.

    Records the medium tier at the first evaluation that reaches `medium` and returns its score, None if there was none.
    """
    job, learner, log = run.job, run.learner, run.log
    noise, uniform = (np.random.default_rng(job.key(item)) for item in ("noise", "warmup"))
    low, high = simulator.action_space.low, simulator.action_space.high
    warmup, state, found = learner.config.warmup, None, None
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
            if found is None:
                run.save("medium-replay", log.episodes())
            if found is None and score >= medium:
                found = score
                run.record_medium(f"the first evaluation of at least {medium:.0f}")
            if score >= expert or (job.seconds is not None and time.monotonic() - run.began > job.seconds):
                break
    return found
