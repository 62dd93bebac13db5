"""The curriculum stage on real artifacts: purity, resuming, pools that come and go, and refusals. About 12 s."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar import config as configs
from instar.artifact import ArmStats, Batch, CurriculumState, Tasks
from instar.components.curriculum.config import Config, SecConfig
from instar.components.curriculum.protocol import solve_rate, total
from instar.components.curriculum.stage import STAGE, Ins, Outs
from instar.contract import Context
from instar.errors import ContractError, LedgerError
from instar.resident import Resident
from instar.rows import ArmStatsRow, BatchRow, TaskRow

Simulate = Callable[..., ArmStatsRow]
Rows = Callable[..., list[TaskRow]]
MakeTasks = Callable[..., Tasks]
MakeContext = Callable[..., Context]
SIZES = {"easy": 7, "hard": 30, "medium": 12}
RATES = {"easy": 0.9, "medium": 0.4, "hard": 0.05, "extra": 0.5}
CONFIG = SecConfig(prompts=10, group_size=4)


class Loop:
    """Runs the stage step by step; the statistics are simulated from the batch itself."""

    def __init__(self, folder: Path, context: MakeContext, simulate: Simulate, config: Config = CONFIG) -> None:
        self.folder, self.context, self.simulate, self.config = folder, context, simulate, config
        self.state: CurriculumState | None = None
        self.stats: ArmStats | None = None
        self.metrics: dict[str, float] = {}

    def step(self, tasks: Tasks, step: int, name: str = "run") -> list[BatchRow]:
        at = self.folder / name / str(step)
        outs = Outs(batch=Batch(at / "batch"), curriculum=CurriculumState(at / "state"))
        self.metrics = STAGE(
            Ins(tasks=tasks, curriculum=self.state, stats=self.stats), outs, self.config, self.context(step)
        )
        batch = outs.batch.read()
        self.state, self.stats = outs.curriculum, ArmStats(at / "stats")
        self.stats.path.mkdir()
        groups = Counter(row.arm for row in batch)
        rng = np.random.default_rng(step)
        self.stats.write([self.simulate(rng, a, p=RATES[a], groups=groups[a], n=4) for a in sorted(groups)])
        return batch


@pytest.fixture
def loop(tmp_path: Path, context: MakeContext, simulate: Simulate) -> Loop:
    return Loop(tmp_path, context, simulate)


def edit_state(loop: Loop, change: Callable[[dict[str, Any]], object]) -> None:
    assert loop.state is not None
    data = loop.state.read_json("state.json")
    change(data)
    loop.state.write_json("state.json", data)


def test_batch_rows_are_right(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    pool = rows(SIZES)
    batch = loop.step(make_tasks([*pool, *rows(SIZES, split="val"), *rows(SIZES, split="ood")]), 0)
    known = {row.task_id: row for row in pool}
    assert [row.slot for row in batch] == list(range(10))
    assert [row.group_id for row in batch] == [f"000000-{i:04d}" for i in range(10)]
    assert all(known[row.task_id].arm == row.arm and row.group_size == 4 for row in batch)
    assert all(row.probability == pytest.approx(1 / 3) for row in batch)
    shares = Counter(row.arm for row in batch)
    assert {a: loop.metrics[f"{a}/share"] for a in SIZES} == {a: shares[a] / 10 for a in SIZES}


def test_same_inputs_give_the_same_bytes(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks = make_tasks(rows(SIZES))
    for step in range(3):
        loop.step(tasks, step)
    held = (loop.state, loop.stats)
    written = []
    for name in ("first", "second"):
        loop.state, loop.stats = held
        loop.step(tasks, 3, name)
        at = loop.folder / name / "3"
        written.append([(at / f).read_bytes() for f in ("batch/rows.parquet", "state/state.json")])
    assert written[0] == written[1]


def test_order_of_observe_and_select(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    """The batch of step 1 is drawn from probabilities that already know the statistics of step 0."""
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    assert loop.stats is not None
    q = {row.arm: 0.5 * total(row, "sum_abs_advantage") / row.num_rollouts for row in loop.stats.read()}
    weights = {arm: np.exp(q.get(arm, 0.0) / 0.2) for arm in SIZES}
    rates = {row.arm: solve_rate(row) for row in loop.stats.read()}
    for row in loop.step(tasks, 1):
        assert row.probability == pytest.approx(weights[row.arm] / sum(weights.values()))
    assert {a: loop.metrics[f"{a}/solve_rate"] for a in rates} == rates


@pytest.mark.parametrize("variant", [{"strategy": "sec"}, {"strategy": "uniform"}, {"strategy": "thompson"}])
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_resumed_at_any_step_gives_the_same_batches(
    tmp_path_factory: pytest.TempPathFactory,
    context: MakeContext,
    simulate: Simulate,
    rows: Rows,
    variant: dict[str, str],
    data: st.DataObject,
) -> None:
    """Killed after any step: a fresh loop that has only the files of state and statistics goes on the same."""
    config = configs.from_dict(Config, {**variant, "prompts": 6, "group_size": 4})
    folder, cut = tmp_path_factory.mktemp("resume"), data.draw(st.integers(1, 5))
    (folder / "tasks").mkdir()
    tasks = Tasks(folder / "tasks")
    tasks.write(rows(SIZES))
    whole = Loop(folder / "whole", context, simulate, config)
    batches = [whole.step(tasks, step) for step in range(6)]
    part, fresh = Loop(folder / "part", context, simulate, config), Loop(folder / "fresh", context, simulate, config)
    head = [part.step(tasks, step) for step in range(cut)]
    assert part.state is not None and part.stats is not None
    fresh.state, fresh.stats = CurriculumState(part.state.path), ArmStats(part.stats.path)
    assert head + [fresh.step(tasks, step) for step in range(cut, 6)] == batches


def test_tasks_come_without_replacement_across_steps(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks, seen = make_tasks(rows(SIZES)), Counter[str]()
    for step in range(12):
        seen.update(row.task_id for row in loop.step(tasks, step))
    for arm, size in SIZES.items():
        counts = [seen[f"{arm}/train/{i}"] for i in range(size)]
        assert max(counts) - min(counts) <= 1


def test_new_arm_enters_with_the_mean_and_gone_arm_comes_back(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    small = {a: SIZES[a] for a in ("easy", "hard")}
    loop.step(make_tasks(rows(SIZES)), 0)
    loop.step(make_tasks(rows(SIZES)), 1)
    assert loop.state is not None
    before = loop.state.read_json("state.json")
    loop.step(make_tasks(rows(small)), 2)
    without = loop.state.read_json("state.json")
    assert set(without["arms"]) == set(without["values"]["q"]) == {"easy", "hard"}
    archived = without["archived"]["medium"]
    assert archived["arm"]["position"] == before["arms"]["medium"]["position"]
    pool = rows(SIZES) + rows({"extra": 9})
    loop.step(make_tasks(pool), 3)
    grown = loop.state.read_json("state.json")
    assert not grown["archived"]
    assert grown["values"]["q"]["medium"] == archived["values"]["q"]
    others = [grown["values"]["q"][a] for a in SIZES]
    assert grown["values"]["q"]["extra"] == pytest.approx(sum(others) / 3)


def test_last_batch_of_a_gone_arm_is_still_observed(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    """Statistics come one step late: those of an arm whose pool just went must reach its archived value."""
    loop.step(make_tasks(rows(SIZES)), 0)
    assert loop.stats is not None and loop.state is not None
    row = next(r for r in loop.stats.read() if r.arm == "medium")
    loop.step(make_tasks(rows({a: SIZES[a] for a in ("easy", "hard")})), 1)
    archived = loop.state.read_json("state.json")["archived"]["medium"]["values"]["q"]
    assert archived == pytest.approx(0.5 * total(row, "sum_abs_advantage") / row.num_rollouts) != 0.0


def test_changed_pool_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    loop.step(make_tasks(rows(SIZES)), 0)
    with pytest.raises(LedgerError, match=r"arms\..*digest"):
        loop.step(make_tasks(rows(SIZES, edition="new-")), 1)


def test_reordered_pool_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    loop.step(make_tasks(rows(SIZES)), 0)
    with pytest.raises(LedgerError, match="digest"):
        loop.step(make_tasks(rows(SIZES)[::-1]), 1)


def test_no_state_after_step_0_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    with pytest.raises(LedgerError, match=r"curriculum\.curriculum"):
        loop.step(make_tasks(rows(SIZES)), 1)


def test_no_statistics_after_step_0_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    loop.stats = None
    with pytest.raises(LedgerError, match=r"curriculum\.stats"):
        loop.step(tasks, 1)


def test_statistics_before_the_first_batch_are_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    loop.state = None
    with pytest.raises(LedgerError, match="before the first batch"):
        loop.step(tasks, 0, "again")


def test_statistics_of_another_batch_are_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    assert loop.stats is not None
    loop.stats.write([dataclasses.replace(r, num_prompts=r.num_prompts + 1) for r in loop.stats.read()])
    with pytest.raises(LedgerError, match="at most"):
        loop.step(tasks, 1)


def test_state_of_a_later_step_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks = make_tasks(rows(SIZES))
    for step in range(3):
        loop.step(tasks, step)
    with pytest.raises(LedgerError, match="step before 2"):
        loop.step(tasks, 2, "again")


def test_state_of_another_configuration_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    loop.config = dataclasses.replace(CONFIG, tau=0.3)
    with pytest.raises(LedgerError, match="tau"):
        loop.step(tasks, 1)


@pytest.mark.parametrize("part", ["step", "key", "config", "values", "arms", "archived"])
def test_state_without_a_part_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks, part: str) -> None:
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    edit_state(loop, lambda data: data.pop(part))
    with pytest.raises(LedgerError, match=part):
        loop.step(tasks, 1)


@pytest.mark.parametrize("part", ["epoch", "position", "digest", "drawn", "visits", "level", "size"])
def test_arm_without_a_part_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks, part: str) -> None:
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    edit_state(loop, lambda data: data["arms"]["easy"].pop(part))
    with pytest.raises(LedgerError, match=part):
        loop.step(tasks, 1)


def test_pool_without_training_tasks_is_refused(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    with pytest.raises(ContractError, match="split train"):
        loop.step(make_tasks(rows(SIZES, split="val")), 0)


def test_oversampling_draws_more_slots(loop: Loop, rows: Rows, make_tasks: MakeTasks) -> None:
    loop.config = dataclasses.replace(CONFIG, oversample=1.5)
    assert len(loop.step(make_tasks(rows(SIZES)), 0)) == 15


def test_pools_stay_resident_by_digest(tmp_path: Path, rows: Rows, make_tasks: MakeTasks, context: MakeContext) -> None:
    """The second step reads no table: it works after the file is gone. Another digest is read anew."""
    tasks, resident = make_tasks(rows(SIZES), "sha256:one"), Resident()
    batches = []
    for name in ("a", "b"):
        outs = Outs(batch=Batch(tmp_path / name / "batch"), curriculum=CurriculumState(tmp_path / name / "state"))
        STAGE(Ins(tasks=tasks, curriculum=None, stats=None), outs, CONFIG, context(0, resident=resident))
        batches.append(outs.batch.read())
        (tasks.path / "rows.parquet").write_bytes(b"")
    assert batches[0] == batches[1]
    other = make_tasks(rows({"easy": 7}), "sha256:two")
    outs = Outs(batch=Batch(tmp_path / "c" / "batch"), curriculum=CurriculumState(tmp_path / "c" / "state"))
    STAGE(Ins(tasks=other, curriculum=None, stats=None), outs, CONFIG, context(0, resident=resident))
    assert {row.arm for row in outs.batch.read()} == {"easy"}
    assert [digest for _, digest in resident] == ["sha256:two"]


def test_evolutions_draw_differently_and_the_state_keeps_its_key(
    tmp_path: Path, rows: Rows, make_tasks: MakeTasks, context: MakeContext
) -> None:
    tasks, batches = make_tasks(rows(SIZES)), []
    for name in ("one", "two"):
        outs = Outs(batch=Batch(tmp_path / name / "batch"), curriculum=CurriculumState(tmp_path / name / "state"))
        STAGE(Ins(tasks=tasks, curriculum=None, stats=None), outs, CONFIG, context(0, evolution=name))
        batches.append([row.task_id for row in outs.batch.read()])
        assert json.loads((outs.curriculum.path / "state.json").read_text())["key"] == name
    assert batches[0] != batches[1]


def test_importing_the_stages_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, instar.components.curriculum.stage, instar.components.evaluate.stage\n"
        "import instar.pipelines.gate, instar.components.curriculum.config\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'reasoning_gym', 'great_expectations', 'mlflow', 'peft'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
