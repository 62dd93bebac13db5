"""Logged episodes, windows of them and a continuous-control policy on disk: what every test of the supervised
update starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
from instar.components.continuous.build import build
from instar.components.continuous.config import (
    Arch,
    BcArch,
    ContinuousTask,
    DecisionMambaArch,
    DecisionTransformerArch,
)
from instar.components.policy_io import load_model, row_name
from instar.components.trajectories import Trajectories, open_trajectories
from instar.components.update.sequence.batch import Labelled, join
from instar.components.update.sequence.config import SequenceConfig
from instar.components.update.sequence.samples import Samples
from instar.components.update.stage import STAGE, Ins, Outs
from instar.contract import Context
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, ScoreRow

STEPS, SCALE = 4, 2.0
DM = DecisionMambaArch(width=8, layers=2, state_size=4, window=STEPS, max_timestep=50)
DT = DecisionTransformerArch(width=8, layers=1, window=STEPS, max_timestep=50)
BC = BcArch(width=8, layers=1, window=STEPS)
TASK = ContinuousTask(
    env="Scene-v0",
    state_dim=2,
    action_dim=1,
    action_low=(-2.0,),
    action_high=(2.0,),
    state_mean=(0.5, -0.5),
    state_std=(2.0, 0.5),
    return_scale=SCALE,
)
CONFIG = SequenceConfig(batch=4, lr=1e-2, warmup_steps=3, probe=6)


@dataclass(frozen=True)
class Episode:
    """One logged episode."""

    name: str
    arm: str
    states: Any
    """[T, 2]"""
    actions: Any
    """[T, 1] in [-2, 2]"""
    rewards: Any
    """[T]"""


@dataclass
class Scene:
    """A policy, data, and windows of it with labels; `update` runs the stage on them."""

    root: Path
    episodes: list[Episode]
    policy: Policy
    slots: list[BatchRow] = field(default_factory=list)
    rollouts: list[RolloutRow] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    trainer: TrainerState | None = None
    reference: Policy | None = None
    step: int = 0
    runs: int = 0

    def context(self, resident: Resident | None = None) -> Context:
        scratch = self.root / "scratch"
        scratch.mkdir(exist_ok=True)
        kept = Resident() if resident is None else resident
        return Context(evolution="test", step=self.step, stage="update", scratch=scratch, resident=kept)

    def cut(self, places: Sequence[tuple[int, int]], beta: float = 0.0, delayed: bool = False) -> Scene:
        """Take windows (episode, first step); with beta > 0 the policy's own actions on them are recorded."""
        self.slots, self.rollouts, self.scores = [], [], []
        model: Any = load_model(self.policy, self.context()) if beta > 0 else None
        for slot, (number, start) in enumerate(places):
            episode, group = self.episodes[number], f"{self.step:03d}-{slot:03d}"
            acted = [] if model is None else propose(model, episode, start)
            rtg = float(np.sum(episode.rewards[0 if delayed else start :])) / SCALE
            self.slots.append(
                BatchRow(
                    slot=slot,
                    task_id=f"{episode.arm}/train/{slot}",
                    arm=episode.arm,
                    probability=1.0,
                    group_id=group,
                    group_size=1,
                )
            )
            self.rollouts.append(
                RolloutRow(
                    rollout_id=f"{group}/0",
                    task_id=episode.name,
                    arm=episode.arm,
                    kind="continuous",
                    group_id=group,
                    policy=row_name(self.policy),
                    token_ids=[],
                    behaviour_logprobs=[],
                    steps=[],
                    truncated=False,
                    seed=0,
                    offset=start,
                    actions=acted,
                )
            )
            parts = {"beta": beta, "shift": 0.1, "delayed": float(delayed)}
            self.scores.append(
                ScoreRow(
                    rollout_id=f"{group}/0",
                    correct=None,
                    format_ok=None,
                    reward=rtg,
                    components=parts,
                    status="scored",
                    reason="",
                    scorer="test",
                )
            )
        return self

    def ins(self, folder: Path) -> Ins:
        """Write the inputs of an update."""
        made: dict[str, Any] = {"batch": Batch, "rollouts": Rollouts, "scores": Scores, "data": Rollouts}
        for name, kind in made.items():
            (folder / name).mkdir(parents=True)
            made[name] = kind(folder / name)
        for name, rows in (("batch", self.slots), ("rollouts", self.rollouts), ("scores", self.scores)):
            made[name].write(rows)
        made["data"].write([logged_row(e) for e in self.episodes])
        return Ins(policy=self.policy, trainer=self.trainer, reference=self.reference, **made)

    def update(
        self, config: SequenceConfig = CONFIG, resident: Resident | None = None, **changes: Any
    ) -> tuple[Outs, dict[str, float]]:
        """Run the stage in a new folder; `changes` replace inputs."""
        self.runs += 1
        folder = self.root / f"run{self.runs}"
        ins = dataclasses.replace(self.ins(folder), **changes)
        outs = Outs(
            policy=Policy(folder / "policy"), trainer=TrainerState(folder / "trainer"), stats=ArmStats(folder / "stats")
        )
        return outs, STAGE(ins, outs, config, self.context(resident))

    def advance(self, outs: Outs, resident: Resident | None = None) -> None:
        """Commit what the update wrote and go to the next step."""
        self.step += 1
        digest = f"digest{self.step}"
        self.policy, self.trainer = Policy(outs.policy.path, digest), outs.trainer
        if resident is not None:
            resident.adopt(self.policy)

    def open(self, policy: Policy | None = None) -> tuple[Trajectories, Labelled, Samples, Any]:
        """Return what the update makes of its inputs before it trains: data, batch, samples and the model.

        `policy` is another one than the windows were rolled out with.
        """
        self.runs += 1
        ins = self.ins(self.root / f"run{self.runs}")
        data = open_trajectories(ins.data, Resident(), "test")
        model: Any = load_model(self.policy if policy is None else policy, self.context())
        batch = join(ins.batch, ins.rollouts, ins.scores, self.policy, data, model.arch.window, SCALE)
        return data, batch, Samples(data, batch, model, "cpu"), model


def make_scene(root: Path, arch: Arch = DM, lengths: Sequence[int] = (6, 5, 1), seed: int = 0) -> Scene:
    """Return random episodes of these lengths, with arms `good` and `poor` in turn, and a new policy."""
    rng = np.random.default_rng(seed)
    episodes = [
        Episode(
            f"e{i}", ("good", "poor")[i % 2], rng.normal(size=(t, 2)), rng.uniform(-2, 2, (t, 1)), rng.normal(size=t)
        )
        for i, t in enumerate(lengths)
    ]
    model: Any = build(arch, TASK, seed)
    model.save_pretrained(root / "policy0")
    return Scene(root=root, episodes=episodes, policy=Policy(root / "policy0", "digest0"))


def logged_row(episode: Episode) -> RolloutRow:
    """Return the episode as a row of the data."""
    return RolloutRow(
        rollout_id=episode.name,
        task_id=episode.name,
        arm=episode.arm,
        kind="continuous",
        group_id=episode.name,
        policy="logger",
        token_ids=[],
        behaviour_logprobs=[],
        steps=[],
        truncated=True,
        seed=0,
        observations=np.ravel(episode.states).tolist(),
        actions=np.ravel(episode.actions).tolist(),
        rewards=np.ravel(episode.rewards).tolist(),
        returns_to_go=np.cumsum(episode.rewards[::-1])[::-1].tolist(),
    )


def propose(model: Any, episode: Episode, start: int) -> list[float]:
    """Return the model's actions on one window without padding, in the environment's units."""
    end = min(start + STEPS, len(episode.rewards))
    rtg = np.cumsum(episode.rewards[::-1])[::-1] / SCALE
    with torch.no_grad():
        out = model(
            torch.tensor(episode.states[start:end], dtype=torch.float32)[None],
            torch.tensor(episode.actions[start:end], dtype=torch.float32)[None],
            torch.tensor(rtg[start:end].copy(), dtype=torch.float32)[None],
            torch.arange(start, end)[None],
            torch.ones(1, end - start, dtype=torch.bool),
        )
    return model.units.to_box(out.actions).flatten().double().tolist()


def everywhere(scene: Scene) -> list[tuple[int, int]]:
    """Return every step of every episode as the start of a window."""
    return [(i, s) for i, e in enumerate(scene.episodes) for s in range(len(e.rewards))]


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}
