"""The stage end to end on a tiny policy. Runs in about four seconds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instar import config as configs
from instar.artifact import Batch, Policy, Rollouts, Tasks
from instar.components.rollout.config import EngineConfig, SampleConfig
from instar.components.rollout.engines import ENGINE, open_engine
from instar.components.rollout.stage import STAGE, Ins, Outs
from instar.contract import Context
from instar.errors import ConfigError, ContractError, EngineError
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, TaskRow

PROMPTS = {"add/train/0": "1+2=", "add/train/1": "10+23=", "sub/train/0": "7-4="}
CONFIG = SampleConfig(max_new_tokens=6, engine=EngineConfig(max_rows=5))


def task(task_id: str, prompt: str) -> TaskRow:
    return TaskRow(
        task_id=task_id,
        arm=task_id.split("/")[0],
        domain="sum",
        level=1.0,
        split="train",
        prompt=prompt,
        verifier="v",
        reference='"3"',
        features="{}",
        content_hash=prompt.rjust(64, "0"),
        generator="g1",
        seed=1,
    )


def slot(i: int, task_id: str, size: int = 4, arm: str = "") -> BatchRow:
    arm = arm or task_id.split("/")[0]
    return BatchRow(slot=i, task_id=task_id, arm=arm, probability=0.5, group_id=f"e/0/{i}", group_size=size)


def context(path: Path, resident: Resident | None = None, step: int = 0) -> Context:
    return Context(
        evolution="e", step=step, stage="rollout", scratch=path, resident=Resident() if resident is None else resident
    )


def inputs(path: Path, policy: Policy, slots: list[BatchRow] | None = None) -> tuple[Ins, Outs]:
    tasks, batch = Tasks(path / "tasks", "tasks-digest"), Batch(path / "batch", "batch-digest")
    for artifact in (tasks, batch):
        artifact.path.mkdir(exist_ok=True)
    tasks.write([task(t, p) for t, p in PROMPTS.items()])
    batch.write(slots if slots is not None else [slot(i, t) for i, t in enumerate(PROMPTS)])
    return Ins(policy=policy, tasks=tasks, batch=batch), Outs(rollouts=Rollouts(path / "rollouts"))


def test_rows_hold_prompt_and_action_tokens(tiny: Any, folder: Any, tmp_path: Path) -> None:
    policy = folder(tiny("llama"), "a")
    ins, outs = inputs(tmp_path, policy)
    ctx = context(tmp_path)
    metrics = STAGE(ins, outs, CONFIG, ctx)
    rows: list[RolloutRow] = outs.rollouts.read()
    assert [r.rollout_id for r in rows] == [f"e/0/{i}/{j}" for i in range(3) for j in range(4)]
    assert rows[4].token_ids[:6] == [3, 2, 12, 4, 5, 14]
    assert [(s.role, s.start, s.end) for s in rows[4].steps] == [
        ("prompt", 0, 6),
        ("action", 6, len(rows[4].token_ids)),
    ]
    assert all(r.seed == ctx.seed(r.rollout_id) and r.policy == "a" and r.kind == "text" for r in rows)
    tokens = sum(len(r.behaviour_logprobs) for r in rows)
    assert metrics["num_rollouts"] == 12
    assert metrics["tokens"] == tokens
    assert metrics["mean_length_tokens"] == pytest.approx(tokens / 12)
    assert metrics["truncated_share"] == pytest.approx(sum(r.truncated for r in rows) / 12)
    assert 0 < metrics["unique_share"] <= 1
    assert metrics["canary_logprob"] < 0
    assert metrics["perf/tokens_per_s"] > 0


def test_the_same_inputs_give_the_same_bytes_and_another_step_other_samples(
    tiny: Any, folder: Any, tmp_path: Path
) -> None:
    ins, outs = inputs(tmp_path, folder(tiny("llama"), "a"))
    resident = Resident()
    STAGE(ins, outs, CONFIG, context(tmp_path, resident))
    first = (outs.rollouts.path / "rows.parquet").read_bytes()
    STAGE(ins, outs, CONFIG, context(tmp_path))
    assert (outs.rollouts.path / "rows.parquet").read_bytes() == first
    STAGE(ins, outs, CONFIG, context(tmp_path, resident, step=1))
    assert (outs.rollouts.path / "rows.parquet").read_bytes() != first


def test_the_engine_is_kept_for_one_policy_and_replaced_for_the_next(tiny: Any, folder: Any, tmp_path: Path) -> None:
    resident = Resident()
    one, two = folder(tiny("llama"), "a"), folder(tiny("llama", 1), "b")
    first = open_engine(CONFIG.engine, one, context(tmp_path, resident))
    assert open_engine(CONFIG.engine, one, context(tmp_path, resident)) is first
    second = open_engine(CONFIG.engine, two, context(tmp_path, resident))
    assert (second is first, second.digest) == (False, "b")
    assert resident.get(ENGINE, one.digest) is None
    with pytest.raises(EngineError, match="a committed policy"):
        open_engine(CONFIG.engine, Policy(one.path), context(tmp_path, resident))


@pytest.mark.parametrize(
    ("family", "forward", "packed"), [("llama", "auto", 1), ("llama", "stock", 0), ("gpt2", "auto", 0)]
)
def test_a_rollout_says_which_forward_pass_served(
    tiny: Any, folder: Any, tmp_path: Path, family: str, forward: Any, packed: int
) -> None:
    ins, outs = inputs(tmp_path, folder(tiny(family), "a"))
    config = replace(CONFIG, engine=replace(CONFIG.engine, forward=forward))
    assert STAGE(ins, outs, config, context(tmp_path))["decode_packed"] == packed


def test_the_canary_moves_with_the_policy(tiny: Any, folder: Any, tmp_path: Path) -> None:
    resident = Resident()
    values = []
    for step, policy in enumerate((folder(tiny("llama"), "a"), folder(tiny("llama", 1), "b"))):
        ins, outs = inputs(tmp_path, policy)
        values.append(STAGE(ins, outs, CONFIG, context(tmp_path, resident, step))["canary_logprob"])
    assert values[0] != values[1]


@pytest.mark.parametrize(
    ("slots", "message"),
    [([slot(0, "mul/train/0")], "no such task"), ([slot(0, "sub/train/0", arm="add")], "a task of arm sub")],
)
def test_a_batch_that_does_not_fit_the_tasks_is_refused(
    slots: list[BatchRow], message: str, tiny: Any, folder: Any, tmp_path: Path
) -> None:
    ins, outs = inputs(tmp_path, folder(tiny("llama"), "a"), slots)
    with pytest.raises(ContractError, match=message):
        STAGE(ins, outs, CONFIG, context(tmp_path))


def test_groups_of_different_sizes_keep_their_order(tiny: Any, folder: Any, tmp_path: Path) -> None:
    """Engine batches of 2 rows and stage parts of 8 rows cut across the groups."""
    slots = [slot(0, "add/train/1", 7), slot(1, "add/train/0", 1), slot(2, "sub/train/0", 5)]
    ins, outs = inputs(tmp_path, folder(tiny("llama"), "a"), slots)
    beats: list[str] = []
    ctx = Context(
        evolution="e", step=0, stage="rollout", scratch=tmp_path, heartbeat=lambda unit, metrics: beats.append(unit)
    )
    STAGE(ins, outs, SampleConfig(max_new_tokens=4, engine=EngineConfig(max_rows=2)), ctx)
    rows = outs.rollouts.read()
    assert [r.group_id for r in rows] == ["e/0/0"] * 7 + ["e/0/1"] + ["e/0/2"] * 5
    assert [r.steps[0].end for r in rows] == [6] * 7 + [4] * 6
    assert beats == ["8 rollouts", "13 rollouts"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.7}, "allow_tempered"),
        ({"temperature": 0.0}, "a positive number"),
        ({"temperature": float("nan")}, "a finite number"),
        ({"max_new_tokens": 0}, ">= 1"),
        ({"engine": {"max_rows": 0}}, "max_rows"),
        ({"top_p": 0.9}, "top_p"),
    ],
)
def test_settings_that_would_bias_or_stop_training_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.from_dict(SampleConfig, {"max_new_tokens": 8} | changes)


def test_a_tempered_rollout_needs_consent() -> None:
    assert SampleConfig(max_new_tokens=8, temperature=0.7, allow_tempered=True).temperature == 0.7


def test_importing_the_stage_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "tokenizers")
    code = f"import sys, instar.components.rollout.stage; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
