"""instar's side: the stage functions on one batch a step, called as a fused segment calls them."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpo_vs_trl_tasks as arithmetic
from grpo_vs_trl_turns import Turns, counts, examine, memory

from instar import contract
from instar.artifact import Batch, Policy, Tasks
from instar.components.reward.config import VerifyConfig
from instar.components.reward.stage import STAGE as REWARD
from instar.components.rollout.config import EngineConfig, SampleConfig
from instar.components.rollout.engine import Request
from instar.components.rollout.engines import open_engine
from instar.components.rollout.stage import STAGE as ROLLOUT
from instar.components.tokenizer import load_tokenizer
from instar.components.update.config import Mismatch, PolicyGradientConfig
from instar.components.update.stage import STAGE as UPDATE
from instar.contract import Context
from instar.manifest import manifest_of
from instar.pipelines.execute import execute
from instar.resident import Resident
from instar.rows import BatchRow, TaskRow


def configs(settings: argparse.Namespace) -> tuple[SampleConfig, VerifyConfig, PolicyGradientConfig]:
    """Return the settings of the three stages: TRL's loss (`dapo`: clip .2, token mean), optimiser and lengths."""
    engine = EngineConfig(dtype=settings.engine_dtype, device="cpu", max_rows=settings.max_rows)
    return (
        SampleConfig(max_new_tokens=settings.max_new_tokens, stop=(arithmetic.STOP,), engine=engine),
        VerifyConfig(style="line"),
        PolicyGradientConfig(
            clip_high=0.2,
            mismatch=Mismatch(kind="off"),
            lr=settings.lr,
            dtype=settings.update_dtype,
            device="cpu",
            micro_batch_tokens=settings.micro_batch_tokens,
            **settings.update,
        ),
    )


def side(
    name: str,
    settings: argparse.Namespace,
    rows: Sequence[TaskRow],
    drawn: Sequence[Sequence[str]],
    turns: Turns,
    scratch: Path,
) -> None:
    """Take the steps, then examine the final and the first policy."""
    del name
    model = Path(settings.model)
    state: dict[str, Any] = {"policy": Policy(model, manifest_of(model, "Policy").digest), "trainer": None}
    tasks = Tasks(_made(scratch / "tasks"))
    tasks.write(rows)
    tasks.digest = manifest_of(tasks.path, "Tasks").digest
    by_id: dict[str, TaskRow] = {row.task_id: row for row in rows}
    resident = Resident()
    chosen = configs(settings)
    turns.send(
        {
            **memory(),
            "greedy_ids": greedy(state["policy"], [by_id[i].prompt for i in drawn[0]], chosen[0], resident, scratch),
        }
    )
    for step, names in enumerate(drawn):
        turns.wait()
        folder = scratch / f"{step:04d}"
        batch = Batch(_made(folder / "batch"))
        batch.write(
            BatchRow(
                slot=i, task_id=n, arm=by_id[n].arm, probability=1.0, group_id=f"g{step}.{i}", group_size=settings.group
            )
            for i, n in enumerate(names)
        )
        batch.digest = manifest_of(batch.path, "Batch").digest
        state |= {"tasks": tasks, "batch": batch, "reference": None, "data": None, "generated": None}
        for stage, config in zip((ROLLOUT, REWARD, UPDATE), chosen, strict=True):
            ctx = Context(
                evolution=f"grpo-vs-trl-{settings.seed}",
                step=step,
                stage=stage.name,
                scratch=_made(folder / "scratch"),
                resident=resident,
                durable=step == len(drawn) - 1 or settings.files == "every",
            )
            inputs = {port: state.get(port) for port in contract.ports(stage.ins)}
            result = turns.timed(stage.name, execute)(stage, inputs, config, ctx, folder / stage.name)
            state |= contract.artifacts(result.outs)
        turns.done(_record(state))
        if step:
            shutil.rmtree(scratch / f"{step - 1:04d}")
    peak = memory()
    resident.clear()
    final = {**peak, "greedy": examine(state["policy"].path, rows, settings, scratch)}
    turns.send(final | {"greedy_before": examine(model, rows, settings, scratch)})


def greedy(
    policy: Policy, prompts: list[str], config: SampleConfig, resident: Resident, scratch: Path
) -> list[list[int]]:
    """Return the greedy answers of the first policy to the prompts of the first step, by the engine that will sample."""
    ctx = Context(evolution="greedy", step=0, stage="rollout", scratch=_made(scratch / "greedy"), resident=resident)
    tokenizer, engine = load_tokenizer(policy), open_engine(config.engine, policy, ctx)
    requests = [Request(request_id=str(i), prompt_ids=tokenizer.encode(p), seeds=[0]) for i, p in enumerate(prompts)]
    found = engine.sample(requests, max_new_tokens=config.max_new_tokens, temperature=0.0, stop=config.stop)
    return [sample.token_ids for (sample,) in found]


def _record(state: dict[str, Any]) -> dict[str, Any]:
    rollouts, scores = state["rollouts"].read(), state["scores"].read()
    prompts = [row.token_ids[: row.steps[0].end] for row in rollouts]
    answers = [row.token_ids[row.steps[0].end :] for row in rollouts]
    rewards = [score.reward or 0.0 for score in scores]
    groups: dict[str, list[float]] = {}
    for row, reward in zip(rollouts, rewards, strict=True):
        groups.setdefault(row.group_id, []).append(reward)
    informative = sum(max(g) > min(g) for g in groups.values()) / len(groups)
    return counts(prompts, answers) | {"reward": sum(rewards) / len(rewards), "informative_share": informative}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
