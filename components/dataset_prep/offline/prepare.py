"""The strategy `offline`: it reads or makes trajectories, checks them, cuts them into tasks, and makes the policy that will learn.

Training tasks are slices of logged episodes. Their arm is the quality of the episode. An evaluation task is a start state in the
simulator and a return that the policy is asked for. Tasks of the pools `val` and `id` ask for the target, and tasks of the pool
`probe` ask for other returns. Every evaluation task holds the reference returns for its score. The policy holds what it needs
to act: dimensions, action box, standardisation of states, and scale of returns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from instar.components.continuous import build as policies
from instar.components.continuous.config import Arch, BcArch, ContinuousTask
from instar.components.dataset_prep.offline import pendulum, statistics
from instar.components.dataset_prep.offline.cutting import return_buckets, slices
from instar.components.dataset_prep.offline.d4rl import read_d4rl
from instar.components.dataset_prep.offline.episodes import Episodes, concat
from instar.components.dataset_prep.offline.files import read_files
from instar.components.dataset_prep.offline.minari import read_minari
from instar.components.dataset_prep.offline.noise import add_action_noise
from instar.components.dataset_prep.offline.references import with_references
from instar.components.dataset_prep.offline.rows import EpisodeRow, episode_table
from instar.components.dataset_prep.offline.sources import (
    D4rlSource,
    EpisodesSource,
    FilesSource,
    MinariSource,
    PendulumSource,
)
from instar.components.dataset_prep.offline.table import read_parquet, to_table
from instar.components.dataset_prep.offline.tasks import Environment, Simulator, find_simulator, find_task
from instar.components.dataset_prep.offline.validate import validate, whole
from instar.contract import Context, Metrics
from instar.errors import ConfigError, ContractError
from instar.quality import run_gate
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.components.dataset_prep.offline.config import OfflineConfig
    from instar.components.dataset_prep.stage import Outs

GENERATOR = "offline/1"


def prepare(outs: Outs, config: OfflineConfig, ctx: Context) -> Metrics:
    """Write the data, the tasks, the result of the checks, and a new policy."""
    recorded = read(config, ctx)
    simulator = find_simulator(recorded.env)
    ctx.heartbeat(f"{recorded.num_steps} steps of {recorded.env}", {})
    check_fits(recorded, simulator)
    validate(recorded, max_steps=simulator.max_steps)
    episodes = whole(recorded, simulator.max_steps)
    environment = with_references(simulator, episodes, config.source, ctx.seed)
    if config.buckets:
        episodes = dataclasses.replace(episodes, tier=np.array(return_buckets(episodes.returns, config.buckets)))
    facts = episode_table(episodes, environment.max_steps)
    if config.noise.share:
        noise = config.noise
        episodes, _ = add_action_noise(episodes, std=noise.std, share=noise.share, unit="steps", seed=ctx.seed("noise"))
    rows = [*training_tasks(episodes, config), *evaluation_tasks(environment, config, ctx)]
    outs.data.write_table(to_table(episodes))
    outs.tasks.write(rows)
    verdicts = {"episodes": run_gate(EpisodeRow, facts), "tasks": run_gate(TaskRow, outs.tasks.table())}
    tiers = statistics.tier_summary(episodes)
    outs.quality.write_json("quality.json", {"success": True, "tiers": tiers, **verdicts})
    ctx.heartbeat("validated data and tasks", {})
    model = policies.build(
        _fitting(config.arch, environment), control_task(episodes, environment, config), ctx.seed("weights")
    )
    logging.disable_progress_bar()
    model.save_pretrained(outs.policy.path)
    metrics: Metrics = {"num_tasks": float(len(rows)), "num_episodes": float(episodes.num_episodes)}
    metrics |= {"num_steps": float(episodes.num_steps), "return_mean": float(episodes.returns.mean())}
    metrics["num_pieces_left_out"] = float(recorded.num_episodes - episodes.num_episodes)
    metrics |= {f"{tier}/{name}": facts[name] for tier, facts in tiers.items() for name in ("steps", "mean_return")}
    return metrics | {"num_parameters": float(sum(p.numel() for p in model.parameters()))}


def read(config: OfflineConfig, ctx: Context) -> Episodes:
    """Return the episodes of the configured source. The tier of an episode is its arm, unless `buckets` are configured."""
    source = config.source
    match source:
        case PendulumSource():
            seeds = [ctx.seed(f"episode/{i}") for i in range(source.episodes)]
            episodes = concat([pendulum.tier(rate, seeds, f"eps-{rate:g}") for rate in source.rates])
        case EpisodesSource():
            episodes = _recorded(source)
        case MinariSource():
            episodes = read_minari(Path(source.path))
        case D4rlSource():
            task = find_task(source.task)
            episodes = read_d4rl(Path(source.path), task.environment.id, task.tier)
        case FilesSource():
            episodes = read_files(source)
    return episodes


def check_fits(episodes: Episodes, environment: Simulator) -> None:
    """Raise `ContractError` when the data have other dimensions, or another action box, than the environment that they name."""
    dimensions = (int(episodes.observations.shape[1]), int(episodes.actions.shape[1]))
    if dimensions != (environment.state_dim, environment.action_dim):
        raise ContractError(
            expected=f"states of dimension {environment.state_dim} and actions of dimension {environment.action_dim}, as in "
            f"{environment.id}",
            found=f"dimensions {dimensions[0]} and {dimensions[1]}",
            where="dataset_prep.source",
            action="correct the path or the task, so that the data are of this environment",
        )
    low, high = list(environment.action_low), list(environment.action_high)
    box = np.array([episodes.action_low, episodes.action_high], np.float32)
    if not np.array_equal(box, np.array([low, high], np.float32)):
        raise ContractError(
            expected=f"actions within {low} and {high}, as in {environment.id}, where the policy is evaluated",
            found=f"actions within {episodes.action_low.tolist()} and {episodes.action_high.tolist()}",
            where="dataset_prep.source",
            action="write the actions again in the units of the environment, because a wrapper changed them",
        )


def _recorded(source: EpisodesSource) -> Episodes:
    """Return the episodes of a folder that `instar data` made, with one file per tier, or of one such file."""
    path = Path(source.path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    wanted = [file for file in files if not source.tiers or file.stem in source.tiers or not path.is_dir()]
    parts = [read_parquet(file) for file in wanted]
    present = {tier for part in parts for tier in part.tier.tolist()}
    missing = sorted(set(source.tiers) - present)
    if missing or not parts:
        raise ConfigError(
            expected=f"tiers of {source.path}: {', '.join(file.stem for file in files) or 'a Parquet file of episodes'}",
            found=", ".join(missing) or "no Parquet file",
            where="dataset_prep.source.tiers",
            action="correct the path and the names of tiers, or name no tiers to take all",
        )
    episodes = concat(parts)
    return episodes.select(np.isin(episodes.tier, source.tiers)) if source.tiers else episodes


def training_tasks(episodes: Episodes, config: OfflineConfig) -> list[TaskRow]:
    """Return one task per slice. The level of a task is the return of its episode."""
    ids, returns = episodes.ids, episodes.returns.tolist()
    return [
        _task(
            piece.task_id,
            piece.tier,
            "train",
            episodes.env,
            returns[piece.episode],
            f"steps {piece.start} to {piece.end} of episode {ids[piece.episode]}",
            {"episode": ids[piece.episode], "start": piece.start, "end": piece.end},
            {},
            0,
        )
        for piece in slices(episodes, config.arch.window)
    ]


def evaluation_tasks(environment: Environment, config: OfflineConfig, ctx: Context) -> list[TaskRow]:
    """Return the evaluation tasks: start states, each with a return to ask for. No start state is in two pools."""
    target = environment_target(environment, config)
    probes = config.probes if config.probes is not None else environment.probes
    reference = {"random": environment.random, "expert": environment.expert, "source": environment.label}
    plans = [("val", target, config.val_episodes), ("id", target, config.test_episodes)]
    plans += [("probe", probe, config.probe_episodes) for probe in probes]
    out = []
    for split, asked, count in plans:
        arm = f"target {asked:g}"
        for number in range(count):
            seed = ctx.seed(f"{split}/{number}") % 2**31
            features = {"env": environment.id, "target_return": asked, "reset_seed": seed}
            name, prompt = f"{arm}/{split}/{number:04d}", f"{environment.id}: reach a return of {asked:g}"
            out.append(_task(name, arm, split, environment.id, asked, prompt, features, reference, seed))
    return out


def environment_target(environment: Environment, config: OfflineConfig) -> float:
    """Return the target: the configured one, else the first one of the D4RL task, else the first one of the environment."""
    if config.target is not None:
        return config.target
    if isinstance(config.source, D4rlSource):
        return find_task(config.source.task).targets[0]
    return environment.targets[0]


def control_task(episodes: Episodes, environment: Environment, config: OfflineConfig) -> ContinuousTask:
    """Return what the policy has to know about its environment and its data."""
    states = statistics.state_statistics(episodes)
    return ContinuousTask(
        env=episodes.env,
        state_dim=int(episodes.observations.shape[1]),
        action_dim=int(episodes.actions.shape[1]),
        action_low=tuple(episodes.action_low.tolist()),
        action_high=tuple(episodes.action_high.tolist()),
        state_mean=tuple(states.mean.tolist()),
        state_std=tuple(states.std.tolist()),
        return_scale=config.return_scale or environment.scale,
    )


def _fitting(arch: Arch, environment: Environment) -> Arch:
    """Return the architecture with enough timesteps for the longest episode, and with the published shapes in place of `auto`."""
    if isinstance(arch, BcArch):
        return arch
    return dataclasses.replace(
        arch,
        max_timestep=max(arch.max_timestep, environment.max_steps),
        encoder=environment.encoder if arch.encoder == "auto" else arch.encoder,
        head=environment.encoder if arch.head == "auto" else arch.head,
    )


def _task(
    task_id: str,
    arm: str,
    split: str,
    domain: str,
    level: float,
    prompt: str,
    features: dict[str, Any],
    reference: dict[str, Any],
    seed: int,
) -> TaskRow:
    texts = [json.dumps(value, sort_keys=True) for value in (features, reference)]
    return TaskRow(
        task_id=task_id,
        arm=arm,
        domain=domain,
        level=level,
        split=split,
        prompt=prompt,
        verifier="simulator",
        reference=texts[1],
        features=texts[0],
        content_hash=hashlib.sha256("\n".join([prompt, *texts]).encode()).hexdigest(),
        generator=GENERATOR,
        seed=seed,
    )
