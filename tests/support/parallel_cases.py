"""Updates that are done once in this process and once in two: what is trained on, and the program of the two.

As a program: a worker of `instar.components.update.parallel` that does every job of `job.json`, one after the other. In
place of a job there may be a segment: the same steps twice, `held` in memory between them and each through `files`.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from instar import config as configs
from instar import contract
from instar.artifact import ArmStats, Batch, Policy, Rollouts, Scores, TrainerState
from instar.components.policy_io import row_name
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from instar.components.update.parallel import worker
from instar.components.update.parallel.gang import write
from instar.components.update.presets import preset
from instar.components.update.stage import Ins, Outs
from unit.update.world import World, make_world, save_model, tiny_llama


@dataclass(frozen=True)
class Case:
    """An update, the groups it trains on, and its config's differences from a plain one."""

    preset: str = "default"
    prompts: int = 3
    changes: dict[str, Any] = field(default_factory=dict)
    constant: bool = False
    reference: bool = False

    def config(self) -> PolicyGradientConfig:
        base: dict[str, Any] = {"lr": 1e-3, "dtype": "float64", "packing": "none", "micro_batch_tokens": 20}
        return preset(self.preset, **base | {"max_grad_norm": 0.5} | self.changes)


TESTS = Path(__file__).parents[1]
ADAPTERS = LoraConfig(r=2, alpha=4, targets=("q_proj", "down_proj"))
CASES: dict[str, Case] = {
    "three-groups": Case(changes={"entropy_coef": 0.01}),
    "minibatches": Case(prompts=5, changes={"minibatches": 2, "epochs": 2}),
    "prefix": Case(prompts=5, changes={"packing": "prefix", "micro_batch_tokens": 40}),
    "kl-in-loss": Case("grpo", 5, {"minibatches": 2}, reference=True),
    "kl-in-reward": Case("rloo", reference=True),
    "kl-of-itself": Case("grpo"),
    "critic": Case("ppo", 5, {"minibatches": 2, "kl": configs.from_dict(type(preset("ppo").kl), {})}),
    "adapters": Case(changes={"lora": ADAPTERS, "minibatches": 2}),
    "checkpointing": Case(changes={"gradient_checkpointing": "on"}),
    "sequence-ratio": Case("gspo", 5, {"minibatches": 2}),
    "one-pass": Case(prompts=1, changes={"packing": "prefix", "micro_batch_tokens": 4096}),
    "nothing-to-learn": Case(constant=True),
    "float32": Case(prompts=5, changes={"dtype": "float32", "minibatches": 2}),
    "bfloat16": Case(prompts=5, changes={"dtype": "bfloat16"}),
}


SEGMENTS: dict[str, Case] = {
    "bfloat16": Case(changes={"dtype": "bfloat16", "packing": "prefix", "micro_batch_tokens": 60}),
    "adapters": Case(changes={"dtype": "float32", "lora": ADAPTERS, "gradient_checkpointing": "on"}),
    "critic and KL": Case("ppo", 3, {"dtype": "float32", "minibatches": 2}, reference=True),
}
STEPS = 2


def world(root: Path, case: Case) -> World:
    """Return the world of a case."""
    made = make_world(root, prompts=case.prompts)
    if case.constant:
        made.scored(lambda row: 1.0)
    elif case.prompts == 1:
        made.scored(lambda row: float(row.rollout_id.endswith(("0", "2"))))
    if case.preset in ("grpo", "rloo"):
        made.reference = made.policy
    if case.reference:
        made.reference = save_model(tiny_llama(seed=1), root / "reference", "reference")
    return made


def job(made: World, config: PolicyGradientConfig, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Write a world's rows and return the job of one update on them."""
    tables = {
        "batch": Batch(folder / "batch"),
        "rollouts": Rollouts(folder / "rollouts"),
        "scores": Scores(folder / "scores"),
    }
    for name, table in tables.items():
        table.path.mkdir(parents=True)
        table.write(getattr(made, name))
    ins = Ins(policy=made.policy, trainer=made.trainer, reference=made.reference, **tables)  # type: ignore[arg-type]
    outs = outputs(folder)
    for artifact in contract.artifacts(outs).values():
        artifact.path.mkdir()
    bundles = {
        key: {name: (str(a.path), a.digest) for name, a in contract.artifacts(bundle).items()}
        for key, bundle in (("ins", ins), ("outs", outs))
    }
    context = {"evolution": "test", "step": made.step, "stage": "update"}
    config = dataclasses.replace(config, processes=2)
    return {
        **bundles,
        "config": configs.to_dict(config),
        "context": context,
        "scratch": str(folder),
        "device": device,
        "last": True,
    }


def segment(root: Path, case: Case, device: str = "cpu") -> dict[str, list[dict[str, Any]]]:
    """Write the rows of a case and return its steps for both ways: the same rows, each on what the step before left."""
    ways: dict[str, list[dict[str, Any]]] = {"held": [], "files": []}
    for way, steps in ways.items():
        (root / way).mkdir(parents=True)
        made = world(root / way, case)
        for step in range(STEPS):
            one = job(made, dataclasses.replace(case.config(), lr=1e-4), root / way / f"step{step}", device)
            one["context"]["step"] = step
            one["last"] = way == "files" or step == STEPS - 1
            if step:
                before = root / way / f"step{step - 1}"
                one["ins"] |= {
                    "policy": (str(before / "policy"), made.policy.digest),
                    "trainer": (str(before / "trainer"), "t"),
                }
            steps.append(one)
    return ways


def search_path() -> str:
    """Return a PYTHONPATH on which the processes find these modules."""
    return os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])


def outputs(folder: Path) -> Outs:
    return Outs(
        policy=Policy(folder / "policy"), trainer=TrainerState(folder / "trainer"), stats=ArmStats(folder / "stats")
    )


def exact_norms() -> Any:
    """Return a norm that computes in its input's type: the library's rounds to float32 whatever the model's type."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return out

    return forward


def name_rows(step: dict[str, Any], rank: int) -> None:
    """Have the rollouts of a step say that the policy which they are an update of has made them."""
    from torch import distributed

    policy, rollouts = Policy(Path(step["ins"]["policy"][0]), "digest0"), Rollouts(Path(step["ins"]["rollouts"][0]))
    if rank == 0:
        rollouts.write([dataclasses.replace(row, policy=row_name(policy)) for row in rollouts.read()])
    distributed.barrier()


def work(jobs: dict[str, Any], folder: Path, rank: int, size: int) -> None:
    from torch import distributed
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from instar.components.update.parallel.improve import Held

    LlamaRMSNorm.forward = exact_norms()
    worker.join(next(iter(jobs.values()))["device"], 60.0)
    for name, one in jobs.items():
        if "held" in one:
            held = Held()
            for step, through_files in zip(one["held"], one["files"], strict=True):
                name_rows(step, rank)
                name_rows(through_files, rank)
                worker.improve(step, folder, rank, size, held)
                worker.improve(through_files, folder, rank, size, Held())
            assert held.learner is None and not held.record
            continue
        metrics = worker.improve(one, folder, rank, size, Held())
        if rank == 0:
            write(folder / f"{name}.metrics.json", metrics)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    worker.main(work)
