"""A tiny Llama and scored rollouts sampled from it: what every test of the update starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instar import schema
from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
from instar.components.policy_io import RESIDENT, load_model, row_name
from instar.components.update import update_batch
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.stage import STAGE, Ins, Outs
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, ScoreRow, Step

VOCABULARY = 20


@dataclass
class World:
    """A policy on disk with a batch of rollouts and scores; `update` runs the stage on them."""

    root: Path
    policy: Policy
    batch: list[BatchRow]
    rollouts: list[RolloutRow]
    scores: list[ScoreRow]
    trainer: TrainerState | None = None
    reference: Policy | None = None
    step: int = 0
    runs: int = 0
    durable: bool = True
    heartbeat: Callable[[str, Any], None] = lambda unit, values: None

    def context(self, resident: Resident | None = None) -> Context:
        scratch = self.root / "scratch"
        scratch.mkdir(exist_ok=True)
        kept = Resident() if resident is None else resident
        return Context(
            evolution="test",
            step=self.step,
            stage="update",
            scratch=scratch,
            resident=kept,
            durable=self.durable,
            heartbeat=self.heartbeat,
        )

    def update(self, config: PolicyGradientConfig, resident: Resident | None = None) -> tuple[Outs, dict[str, float]]:
        self.runs += 1
        folder = self.root / f"run{self.runs}"
        for name in ("batch", "rollouts", "scores"):
            (folder / name).mkdir(parents=True)
        batch, rollouts, scores = Batch(folder / "batch"), Rollouts(folder / "rollouts"), Scores(folder / "scores")
        batch.write(self.batch)
        rollouts.write(self.rollouts)
        scores.write(self.scores)
        ins = Ins(
            policy=self.policy,
            trainer=self.trainer,
            batch=batch,
            rollouts=rollouts,
            scores=scores,
            reference=self.reference,
        )
        outs = Outs(
            policy=Policy(folder / "policy"), trainer=TrainerState(folder / "trainer"), stats=ArmStats(folder / "stats")
        )
        metrics = STAGE(ins, outs, config, self.context(resident))
        return outs, metrics

    def advance(self, outs: Outs, resident: Resident | None = None) -> None:
        """Go to the next step: commit what the update wrote and sample from the new policy."""
        self.step += 1
        digest = f"digest{self.step}"
        self.policy, self.trainer = Policy(outs.policy.path, digest), TrainerState(outs.trainer.path, f"t{self.step}")
        kept = Resident() if resident is None else resident
        for artifact in (self.policy, self.trainer):
            kept.adopt(artifact)
        model = load_model(self.policy, self.context(kept if self.policy_is_resident() else Resident()))
        self.batch, self.rollouts, self.scores = sample_rollouts(model, row_name(self.policy), seed=self.step)

    def policy_is_resident(self) -> bool:
        return (self.policy.path / RESIDENT).is_file()

    def scored(self, reward: Callable[[RolloutRow], float]) -> None:
        """Score every rollout by `reward`, with `correct` 1 where it is positive."""
        self.scores = [score_row(row.rollout_id, float(reward(row) > 0), reward(row)) for row in self.rollouts]


def make_world(root: Path, **changes: Any) -> World:
    """Return a tiny policy with sampled rollouts; `changes` go to `sample_rollouts`."""
    model = tiny_llama()
    policy = save_model(model, root / "policy0", "digest0")
    batch, rollouts, scores = sample_rollouts(model, "digest0", **changes)
    return World(root=root, policy=policy, batch=batch, rollouts=rollouts, scores=scores)


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a Llama of hidden 16, 2 layers, vocabulary 20, weights drawn from `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(**options | changes))
    model = model.to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.ndim >= 2:
            p.data.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def save_model(model: Any, folder: Path, digest: str) -> Policy:
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return Policy(folder, digest)


def sample_rollouts(
    model: Any, digest: str, prompts: int = 4, size: int = 4, seed: int = 0, arms: tuple[str, ...] = ("easy", "hard")
) -> tuple[list[BatchRow], list[RolloutRow], list[ScoreRow]]:
    """Return rows of random tokens with the model's own log-probabilities; reward 1 when the first action is even."""
    rng = np.random.default_rng(seed)
    batch, rollouts, scores = [], [], []
    for slot in range(prompts):
        arm, group = arms[slot % len(arms)], f"g{slot}"
        batch.append(BatchRow(slot=slot, task_id=f"t{slot}", arm=arm, probability=0.5, group_id=group, group_size=size))
        prompt = rng.integers(0, VOCABULARY, int(rng.integers(2, 6))).tolist()
        for i in range(size):
            action = rng.integers(0, VOCABULARY, int(rng.integers(1, 7))).tolist()
            ids = prompt + action
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            chosen = logprobs[range(len(prompt) - 1, len(ids) - 1), action].clamp(max=0).tolist()
            steps = [
                Step(role="prompt", start=0, end=len(prompt)),
                Step(role="action", start=len(prompt), end=len(ids)),
            ]
            rollouts.append(
                RolloutRow(
                    rollout_id=f"{group}/{i}",
                    task_id=f"t{slot}",
                    arm=arm,
                    kind="text",
                    group_id=group,
                    policy=digest,
                    token_ids=ids,
                    behaviour_logprobs=chosen,
                    steps=steps,
                    truncated=False,
                    seed=0,
                )
            )
            right = float(action[0] % 2 == 0)
            scores.append(score_row(f"{group}/{i}", right, right))
    return batch, rollouts, scores


def score_row(rollout_id: str, correct: float | None, reward: float | None, status: str = "scored") -> ScoreRow:
    return ScoreRow(
        rollout_id=rollout_id,
        correct=correct,
        format_ok=correct,
        reward=reward,
        components={},
        status=status,
        reason="" if status == "scored" else "because",
        scorer="test",
    )


def weights(policy: Policy) -> dict[str, Any]:
    """Return the stored tensors of a policy."""
    from safetensors.torch import load_file

    return load_file(policy.path / "model.safetensors")


def joined(world: World, min_group: int = 2) -> UpdateBatch:
    """Return the world's rows as the arrays an update trains on."""
    tables = [
        schema.to_table(row, items)
        for row, items in ((BatchRow, world.batch), (RolloutRow, world.rollouts), (ScoreRow, world.scores))
    ]
    return update_batch.join(tables[0], tables[1], tables[2], min_group)
