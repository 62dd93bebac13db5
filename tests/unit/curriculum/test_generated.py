"""Drawing tasks that the evolution made itself, beside every strategy, in both modes. Fifteen seconds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from instar import config as configs
from instar import seeds
from instar.artifact import ArmStats, Batch, CurriculumState, Tasks
from instar.components.curriculum.config import Config, GeneratedDraw, SecConfig, UniformConfig
from instar.components.curriculum.generated import due
from instar.components.curriculum.stage import STAGE, Ins, Outs
from instar.components.generated.templates import KINDS
from instar.contract import Context
from instar.errors import ConfigError, ContractError, LedgerError
from instar.rows import ArmStatsRow, BatchRow, TaskRow
from support.attempts import simulated

Simulate = Callable[..., ArmStatsRow]
Rows = Callable[..., list[TaskRow]]
MakeTasks = Callable[..., Tasks]
MakeContext = Callable[..., Context]
SIZES = {"easy": 7, "hard": 30, "medium": 12}
VARIANTS = [
    {"strategy": "uniform"},
    {"strategy": "sec"},
    {"strategy": "sec", "mode": "fixed"},
    {"strategy": "thompson"},
    {"strategy": "proximal"},
    {"strategy": "learnability"},
    {"strategy": "ordered", "steps": 4},
    {"strategy": "reverse", "steps": 4},
    {"strategy": "best"},
]


def cache(number: int, step: int = 0) -> list[TaskRow]:
    """Return `number` generated tasks in the order in which the recycler left them."""
    rows: list[TaskRow] = []
    while len(rows) < number:
        rows += simulated(0.5, step, first=100 * step).recycle(step=step)[0].rows
        step += 1
    return rows[:number]


class Loop:
    """Runs the stage over a cache that loses what was drawn; every generated group is reported solved, every other one mixed."""

    def __init__(
        self, folder: Path, context: MakeContext, simulate: Simulate, config: Config, waiting: list[TaskRow]
    ) -> None:
        self.folder, self.context, self.simulate, self.config = folder, context, simulate, config
        self.waiting = waiting
        self.state: CurriculumState | None = None
        self.stats: ArmStats | None = None
        self.metrics: dict[str, float] = {}

    def step(self, tasks: Tasks, step: int) -> list[BatchRow]:
        at = self.folder / str(step)
        outs = Outs(batch=Batch(at / "batch"), curriculum=CurriculumState(at / "state"))
        (at / "generated").mkdir(parents=True)
        generated = Tasks(at / "generated")
        generated.write(self.waiting)
        ins = Ins(tasks=tasks, curriculum=self.state, stats=self.stats, generated=generated if step else None)
        self.metrics = STAGE(ins, outs, self.config, self.context(step))
        batch = outs.batch.read()
        self.state, self.stats = outs.curriculum, ArmStats(at / "stats")
        self.stats.path.mkdir()
        groups = Counter(row.arm for row in batch)
        rates = {arm: 1.0 if arm in KINDS else 0.4 for arm in sorted(groups)}
        self.stats.write(
            [self.simulate(seeds.rng(a, step, "stats"), a, p=p, groups=groups[a], n=4) for a, p in rates.items()]
        )
        drawn = {row.task_id for row in batch}
        self.waiting = [row for row in self.waiting if row.task_id not in drawn]
        return batch


@pytest.fixture
def make(tmp_path: Path, context: MakeContext, simulate: Simulate) -> Callable[..., Loop]:
    def build(config: Config, waiting: int = 40, name: str = "run") -> Loop:
        return Loop(tmp_path / name, context, simulate, config, cache(waiting))

    return build


def config_of(variant: dict[str, object], generated: GeneratedDraw | None) -> Config:
    config = configs.from_dict(Config, {**variant, "prompts": 6, "group_size": 4})
    return dataclasses.replace(config, generated=generated)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_every_strategy_draws_its_own_slots_as_if_there_were_no_generated_ones(
    variant: dict[str, object], make: Callable[..., Loop], rows: Rows, make_tasks: MakeTasks
) -> None:
    tasks = make_tasks(rows(SIZES))
    plain = make(config_of(variant, None), name="plain")
    mixed = make(config_of(variant, GeneratedDraw(prompts=4)), name="mixed")
    for step in range(5):
        alone, batch = plain.step(tasks, step), mixed.step(tasks, step)
        assert batch[:6] == alone
        extra = batch[6:]
        assert len(extra) == (4 if step else 0) and all(row.arm in KINDS for row in extra)
        assert [row.slot for row in batch] == list(range(len(batch)))
        assert len({row.group_id for row in batch}) == len(batch)
        assert all(row.probability == 1.0 and row.group_size == 4 for row in extra)
        assert mixed.metrics["num_prompts"] == len(batch)
        assert sum(mixed.metrics[f"{kind}/share"] for kind in KINDS) == (1.0 if step else 0.0)
        assert {
            k: v
            for k, v in mixed.metrics.items()
            if "share" not in k and k != "num_prompts" and k.partition("/")[0] not in KINDS
        } == {k: v for k, v in plain.metrics.items() if "share" not in k and k != "num_prompts"}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_alternating_steps_leave_every_strategy_as_if_they_had_not_been(
    variant: dict[str, object], make: Callable[..., Loop], rows: Rows, make_tasks: MakeTasks
) -> None:
    """Steps 0, 2, 4, 6 draw ordinary tasks, 1, 3, 5 generated ones; a cache of 30 lasts for three batches of 10."""
    tasks = make_tasks(rows(SIZES))
    loop = make(config_of(variant, GeneratedDraw(prompts=10, mode="alternate")), waiting=30)
    batches = [loop.step(tasks, step) for step in range(8)]
    assert [{row.arm in KINDS for row in batch} for batch in batches] == [{False}, {True}] * 3 + [{False}] * 2
    assert [len(batch) for batch in batches] == [6, 10] * 3 + [6, 6]
    if "strategy" in variant and variant["strategy"] != "uniform":
        return  # what these draw depends on the statistics, whose random numbers differ with the step
    plain = make(config_of(variant, None), name="plain")
    own = [[(row.task_id, row.arm) for row in batch] for batch in batches if batch[0].arm not in KINDS]
    assert own == [[(row.task_id, row.arm) for row in plain.step(tasks, step)] for step in range(5)]


def test_a_step_of_generated_tasks_alone_moves_no_value_of_the_bandit(
    make: Callable[..., Loop], rows: Rows, make_tasks: MakeTasks
) -> None:
    """In mode `faithful` the Q of an arm that was not drawn decays: a step that drew no arm at all must not do that."""
    loop = make(SecConfig(prompts=6, group_size=4, generated=GeneratedDraw(prompts=10, mode="alternate")))
    tasks = make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    loop.step(tasks, 1)
    assert loop.state is not None
    after_solving = loop.state.read_json("state.json")
    loop.step(tasks, 2)
    assert loop.state.read_json("state.json")["values"] == after_solving["values"]
    assert max(after_solving["values"]["q"].values()) > 0


def test_the_oldest_come_first_and_shares_are_filled_by_the_oldest_of_a_kind() -> None:
    waiting = cache(40)
    assert due(waiting, GeneratedDraw(prompts=5), 0) == waiting[:5]
    picked = due(waiting, GeneratedDraw(prompts=8, shares={"judge-pair": 0.5, "judge-point": 0.25}), 0)
    kinds = Counter(row.arm for row in picked)
    assert len(picked) == 8 and kinds["judge-pair"] >= 4 and kinds["judge-point"] >= 2
    assert [row for row in picked if row.arm == "judge-pair"][:4] == [r for r in waiting if r.arm == "judge-pair"][:4]
    assert picked == sorted(picked, key=waiting.index)
    none_of_them = [row for row in waiting if row.arm == "reflect-answer"]
    assert due(none_of_them, GeneratedDraw(prompts=8, shares={"judge-pair": 1.0}), 0) == none_of_them[:8]
    assert due([], GeneratedDraw(prompts=5), 0) == [] and due(waiting, None, 0) == []


@pytest.mark.parametrize(("waiting", "last", "expected"), [(10, 0, 10), (9, 0, 0), (30, 10, 0), (30, 1, 0), (0, 0, 0)])
def test_a_batch_of_generated_tasks_waits_until_it_is_full(waiting: int, last: int, expected: int) -> None:
    assert len(due(cache(waiting), GeneratedDraw(prompts=10, mode="alternate"), last)) == expected


def test_a_pool_named_like_a_kind_is_refused(make: Callable[..., Loop], rows: Rows, make_tasks: MakeTasks) -> None:
    loop = make(UniformConfig(prompts=2, group_size=2))
    with pytest.raises(ContractError, match="judge-pair; at Tasks:arm of split train"):
        loop.step(make_tasks(rows({"easy": 3, "judge-pair": 3})), 0)
    loop.folder = loop.folder / "anchors"
    loop.step(make_tasks([*rows({"easy": 3}), *rows({"judge-pair": 3}, split="anchor")]), 0)


def test_statistics_of_more_generated_groups_than_were_drawn_are_refused(
    make: Callable[..., Loop], simulate: Simulate, rows: Rows, make_tasks: MakeTasks
) -> None:
    loop, tasks = make(UniformConfig(prompts=2, group_size=4)), make_tasks(rows(SIZES))
    loop.step(tasks, 0)
    assert loop.stats is not None
    loop.stats.write([simulate(np.random.default_rng(0), "judge-pair", p=0.5, groups=1, n=4)])
    with pytest.raises(LedgerError, match="at most 0 groups of arm judge-pair"):
        loop.step(tasks, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": 0},
        {"shares": {"judge": 0.5}},
        {"shares": {"judge-pair": 0.6, "judge-point": 0.6}},
        {"shares": {"judge-pair": -0.1}},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"curriculum\.generated"):
        GeneratedDraw(**({"prompts": 4} | change))  # type: ignore[arg-type]
