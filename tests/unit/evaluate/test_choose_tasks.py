"""Which held-out tasks are attempted, from one pool or from several."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from instar.artifact import Tasks
from instar.components.evaluate.attempts import choose_tasks
from instar.components.evaluate.config import AnswerConfig
from instar.contract import Context
from instar.errors import ContractError
from instar.rows import TaskRow


def task(name: str, arm: str, split: str = "val") -> TaskRow:
    return TaskRow(
        task_id=name,
        arm=arm,
        domain="d",
        level=1.0,
        split=split,
        prompt=f"{name}=",
        verifier="exact",
        reference="{}",
        features="{}",
        content_hash="0" * 64,
        generator="g",
        seed=0,
    )


def pool(folder: Path, *rows: TaskRow) -> Tasks:
    folder.mkdir()
    tasks = Tasks(folder, f"sha256:{folder.name}")
    tasks.write(rows)
    return tasks


def test_tasks_come_from_every_pool_in_order_and_are_counted_per_arm(tmp_path: Path) -> None:
    prepared = pool(tmp_path / "a", task("t", "x"), task("u", "x", "train"), task("v", "y"), task("w", "x"))
    pools = {"tasks": prepared, "mutated": pool(tmp_path / "b", task("z", "x"), task("zz", "y"))}
    ctx = Context(evolution="e", step=0, stage="evaluate", scratch=tmp_path)
    config = AnswerConfig(splits=("val",), max_new_tokens=4)
    few = dataclasses.replace(config, tasks_per_arm=2)
    assert [row.task_id for row in choose_tasks(pools, ("val",), config, ctx)] == ["t", "v", "w", "z", "zz"]
    assert [row.task_id for row in choose_tasks(pools, ("val",), few, ctx)] == ["t", "v", "w", "zz"]
    with pytest.raises(ContractError, match=r"none of \['ood'\]"):
        choose_tasks(pools, ("val", "ood"), config, ctx)
