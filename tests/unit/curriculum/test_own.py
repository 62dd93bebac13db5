"""A curriculum of the user's: a class in a file, run in a sandbox, behind the stage that runs all others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from instar.artifact import ArmStats, Batch, Code, CurriculumState, Tasks
from instar.components.curriculum.config import OwnConfig
from instar.components.curriculum.stage import STAGE, Ins, Outs
from instar.contract import Context
from instar.errors import ContractError
from instar.rows import ArmStatsRow, BatchRow, TaskRow
from support.brought import SHORT, brought
from support.own_code import CURRICULUM as HALF

Simulate = Callable[..., ArmStatsRow]
RATES = {"easy": 0.8, "medium": 0.5, "hard": 0.0}
CONFIG = OwnConfig(prompts=12, group_size=4, entry="cur.py:Half", sandbox=SHORT)


class Loop:
    """Runs the stage with the user's code; every step starts from files, as after a kill."""

    def __init__(
        self,
        folder: Path,
        tasks: Tasks,
        code: Code,
        context: Callable[..., Context],
        simulate: Simulate,
    ) -> None:
        self.folder, self.tasks, self.code, self.context, self.simulate = folder, tasks, code, context, simulate
        self.state: CurriculumState | None = None
        self.stats: ArmStats | None = None
        self.metrics: dict[str, float] = {}

    def step(self, step: int, config: OwnConfig = CONFIG) -> list[BatchRow]:
        at = self.folder / str(step)
        outs = Outs(batch=Batch(at / "batch"), curriculum=CurriculumState(at / "state"))
        ins = Ins(tasks=self.tasks, curriculum=self.state, stats=self.stats, curriculum_code=self.code)
        self.metrics = STAGE(ins, outs, config, self.context(step))
        batch = outs.batch.read()
        self.state, self.stats = outs.curriculum, ArmStats(at / "stats")
        self.stats.path.mkdir()
        groups, rng = Counter(row.arm for row in batch), np.random.default_rng(step)
        self.stats.write([self.simulate(rng, a, p=RATES[a], groups=groups[a], n=4) for a in sorted(groups)])
        return batch


@pytest.fixture
def loop(
    tmp_path: Path,
    rows: Callable[..., list[TaskRow]],
    make_tasks: Callable[..., Tasks],
    context: Callable[..., Context],
    simulate: Simulate,
) -> Callable[[str], Loop]:
    tasks = make_tasks(rows({"easy": 20, "medium": 20, "hard": 20}), "t" * 10)
    return lambda text: Loop(tmp_path / "run", tasks, brought(tmp_path / "code", text, "cur.py"), context, simulate)


def test_it_draws_what_the_class_says_and_remembers_through_its_state(loop: Callable[[str], Loop]) -> None:
    run = loop(HALF)
    drawn = [Counter(row.arm for row in run.step(step)) for step in range(4)]
    assert sum(drawn[0].values()) == 12 and set(drawn[0]) == {"easy", "hard", "medium"}
    assert set(drawn[3]) == {"easy", "medium"}  # .8 and .5 are nearer to .5 than 0
    assert run.metrics["easy/p"] == 0.5 and run.metrics["entropy"] == pytest.approx(math.log(2))


def test_settings_reach_the_constructor_and_equal_inputs_give_equal_batches(
    loop: Callable[[str], Loop], tmp_path: Path
) -> None:
    one = OwnConfig(prompts=12, group_size=4, entry="cur.py:Half", settings={"keep": 1}, sandbox=SHORT)
    run = loop(HALF)
    for step in range(3):
        run.step(step, one)
    assert {row.arm for row in run.step(3, one)} == {"medium"}
    again = Loop(tmp_path / "again", run.tasks, run.code, run.context, run.simulate)
    first = [again.step(step) for step in range(2)]
    assert first == [Loop(tmp_path / "third", run.tasks, run.code, run.context, run.simulate).step(0), first[1]]


@pytest.mark.parametrize(
    ("old", "new", "expected", "place"),
    [
        ("k=num)", "k=num - 1)", "12 pairs", "select"),
        ("(name, p[name])", "('nobody', p[name])", "an arm of", "select"),
        ("(name, p[name])", "(name, 1.5)", "a probability in", "select"),
        ("(name, p[name])", "(name, float('nan'))", "a probability in", "select"),
        ('{"rates": self.rates}', "[1]", "a dictionary", "state_dict"),
        ("return {**shares,", "return {'entropy': None} or {**shares,", "finite numbers", "metrics"),
        ('row["sum_correct"]', 'row["sum_corect"]', "", "observe"),
    ],
)
def test_what_it_returns_is_checked(loop: Callable[[str], Loop], old: str, new: str, expected: str, place: str) -> None:
    assert HALF.count(old) == 1
    run = loop(HALF.replace(old, new))
    with pytest.raises(ContractError) as error:
        run.step(0)
        run.step(1)
    assert expected in error.value.expected and error.value.where == f"cur.py:Half.{place}"
