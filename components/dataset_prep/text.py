"""Text tasks: pools per arm, validated, and the policy the evolution starts from.

The policy is either trained here from scratch on the easiest arms (`from_scratch`) or copied from a checkpoint
(`checkpoint`). Train and test tasks never share a content hash (`instar.components.dataset_prep.pools`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instar.components.dataset_prep.config import Checkpoint, FromScratch, TextConfig
from instar.components.dataset_prep.pools import build_pools
from instar.contract import Context, Metrics
from instar.errors import ConfigError
from instar.quality import run_gate
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.components.dataset_prep.stage import Outs


def prepare(outs: Outs, config: TextConfig, ctx: Context) -> Metrics:
    """Build and validate the task pools of every arm, and make or fetch the initial policy. Nothing is logged yet."""
    rows = build_pools(config.pools, ctx.seed)
    ctx.heartbeat(f"built {len(rows)} tasks", {})
    outs.tasks.write(rows)
    outs.data.write([])
    outs.quality.write_json("quality.json", run_gate(TaskRow, outs.tasks.table()))
    ctx.heartbeat("validated tasks", {})
    metrics: Metrics = {"num_tasks": float(len(rows))}
    for split in ("train", "val", "id", "ood"):
        metrics[f"num_tasks/{split}"] = float(sum(row.split == split for row in rows))
    if isinstance(config.initial, FromScratch):
        return metrics | _from_scratch(config.initial, rows, outs.policy.path, ctx)
    return metrics | _from_checkpoint(config.initial, outs.policy.path)


def _from_scratch(config: FromScratch, rows: list[TaskRow], folder: Path, ctx: Context) -> Metrics:
    from instar.components.dataset_prep import charlm, warmstart

    tokenizer = charlm.build_tokenizer(config.model)
    model = charlm.build_model(config.model, ctx.seed("weights"))
    metrics = warmstart.train(model, tokenizer, rows, config.warm_start, ctx.seed("warm_start"), ctx.heartbeat)
    charlm.save(model, tokenizer, folder)
    return metrics | {"num_parameters": float(sum(p.numel() for p in model.parameters()))}


def _from_checkpoint(config: Checkpoint, folder: Path) -> Metrics:
    """Copy a checkpoint into the lineage as safetensors. Remote code is never run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(
            config.path, trust_remote_code=False, use_safetensors=True, dtype="auto"
        )
        tokenizer = AutoTokenizer.from_pretrained(config.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            expected="a transformers checkpoint with safetensors weights",
            found=str(error).splitlines()[0][:200],
            where=f"dataset_prep.initial.path={config.path}",
            action="pass --model with a folder or a hub id this machine can reach",
        ) from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"num_parameters": float(sum(p.numel() for p in model.parameters()))}
