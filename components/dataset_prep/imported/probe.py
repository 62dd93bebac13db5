"""Levels for rows that have none: the initial policy answers some of them, and its solve rate says how hard a task is.

    tasks of arm `all` ──► n answers each ──► scores ──► solve rate ──► quantiles ──► arms `solved-1-to-0.75`, ...; `unprobed`

The first training tasks in the order of their hashes are answered, which is a random choice that rows added later hardly change.
All tasks are written again with their arms and levels. A level is the mean share of wrong answers in its arm.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instar import schema
from instar.artifact import Policy, Tasks
from instar.components.dataset_prep.imported.arms import cut
from instar.components.dataset_prep.imported.pools import parts
from instar.components.reward.scoring import Completion, Scorer
from instar.components.reward.verifiers import Score
from instar.components.rollout.engine import Request
from instar.components.tokenizer import TextTokenizer, load_tokenizer
from instar.contract import Context, Metrics
from instar.manifest import manifest_of
from instar.resident import Resident
from instar.rows import TaskRow

if TYPE_CHECKING:
    from instar.components.dataset_prep.imported_config import ProbeConfig

UNPROBED = "unprobed"
REQUESTS = 128
"""How many tasks the engine gets at once. A heartbeat follows each batch."""


def grade(tasks: Tasks, policy: Policy, config: ProbeConfig, scorer: Scorer, ctx: Context) -> Metrics:
    """Write `tasks` again with the arms and levels that the solve rate of `policy` gives them."""
    asked = list(_asked(tasks, config))
    rates = dict(_rates(asked, policy, config, scorer, ctx))
    train = {row.task_id: rates[row.task_id] for row in asked if row.split == "train" and row.task_id in rates}
    levels = levels_of(list(train.values()), config.levels)
    arms = {row.task_id: levels.arm(rates[row.task_id]) for row in asked if row.task_id in rates}
    _settle(arms, {row.task_id: row.split for row in asked})
    _write(tasks, arms, levels)
    solved = float(np.mean([*train.values()])) if train else 0.0
    return {"probe/tasks": float(len(rates)), "probe/solve_rate": solved, "probe/levels": float(len(levels.names))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """Arms from easy to hard. `edges` are the largest share of wrong answers of every arm but the last."""

    names: tuple[str, ...]
    edges: tuple[float, ...]
    means: tuple[float, ...]
    unprobed: float
    """The level of tasks that were not answered: the mean over all that were."""

    def arm(self, rate: float) -> str:
        """Return the arm of a task with this solve rate."""
        return self.names[int(np.searchsorted(self.edges, 1.0 - rate, side="left"))] if self.names else UNPROBED

    def level(self, arm: str) -> float:
        """Return the level of an arm."""
        return self.means[self.names.index(arm)] if arm in self.names else self.unprobed


def levels_of(rates: Sequence[float], count: int) -> Levels:
    """Return at most `count` arms with about equally many of these solve rates. Equal rates stay together."""
    if not rates:
        return Levels(names=(), edges=(), means=(), unprobed=0.0)
    wrong = 1.0 - np.asarray(rates)
    distinct, counts = np.unique(wrong, return_counts=True)
    edges = cut(distinct, counts, count)
    places = np.searchsorted(edges, wrong, side="left")
    groups = [wrong[places == number] for number in range(len(edges) + 1)]
    names = tuple(_name(1.0 - float(group.min()), 1.0 - float(group.max())) for group in groups)
    means = tuple(round(float(group.mean()), 6) for group in groups)
    return Levels(names=names, edges=tuple(edges), means=means, unprobed=round(float(wrong.mean()), 6))


def _name(most: float, least: float) -> str:
    high, low = f"{most:.3g}", f"{least:.3g}"
    return f"solved-{high}" if high == low else f"solved-{high}-to-{low}"


def _asked(tasks: Tasks, config: ProbeConfig) -> Iterator[TaskRow]:
    """Yield the tasks to answer: the first of each pool."""
    count = Counter[str]()
    for table in parts(tasks.path / "rows.parquet"):
        picks = []
        for index, split in enumerate(table.column("split").to_pylist()):
            if count[split] < (config.tasks if split == "train" else config.held_out):
                count[split] += 1
                picks.append(index)
        yield from schema.from_table(TaskRow, table.take(pa.array(picks, pa.int64())))


def _rates(
    asked: Sequence[TaskRow], policy: Policy, config: ProbeConfig, scorer: Scorer, ctx: Context
) -> Iterator[tuple[str, float]]:
    """Yield the solve rate of every task with a verdict. The engine and its model are dropped afterwards."""
    from instar.components.rollout.engines import open_engine

    own = dataclasses.replace(ctx, resident=Resident())
    served = Policy(policy.path, manifest_of(policy.path, "Policy").digest)
    engine, tokenizer = open_engine(config.engine, served, own), load_tokenizer(served)
    for start in range(0, len(asked), REQUESTS):
        rows = asked[start : start + REQUESTS]
        requests = [_request(row, tokenizer, config, ctx) for row in rows]
        groups = engine.sample(
            requests, max_new_tokens=config.max_new_tokens, temperature=config.temperature, stop=config.stop
        )
        completions = [
            Completion(task=row, text=tokenizer.decode(s.token_ids), token_ids=s.token_ids, truncated=s.truncated)
            for row, group in zip(rows, groups, strict=True)
            for s in group
        ]
        verdicts: dict[str, list[float]] = defaultdict(list)
        for each, verdict in zip(completions, scorer.score(completions), strict=True):
            if isinstance(verdict, Score):
                verdicts[each.task.task_id].append(verdict.correct)
        yield from ((name, float(np.mean(scores))) for name, scores in verdicts.items())
        ctx.heartbeat(f"probed {start + len(rows)} of {len(asked)} tasks", {})


def _request(row: TaskRow, tokenizer: TextTokenizer, config: ProbeConfig, ctx: Context) -> Request:
    seeds = [ctx.seed(f"probe/{row.content_hash}/{number}") for number in range(config.samples)]
    return Request(request_id=row.task_id, prompt_ids=tokenizer.encode_prompt(row.prompt, row.form), seeds=seeds)


def _settle(arms: dict[str, str], splits: dict[str, str]) -> None:
    """Move a task that is alone in its held-out pool to the largest arm of that pool, because one task has no interval."""
    sizes = Counter((splits[name], arm) for name, arm in arms.items() if splits[name] != "train")
    largest: dict[str, tuple[int, str]] = {}
    for (split, arm), count in sizes.items():
        largest[split] = max(largest.get(split, (0, "")), (count, arm))
    for name, arm in arms.items():
        if sizes[splits[name], arm] == 1:
            arms[name] = largest[splits[name]][1]


def _write(tasks: Tasks, arms: dict[str, str], levels: Levels) -> None:
    """Replace the file of the tasks by one with arms, levels and names from the probe."""
    source, target = tasks.path / "rows.parquet", tasks.path / "rows.parquet.new"
    declared = schema.arrow_schema(TaskRow)
    with pq.ParquetWriter(target, declared, compression="zstd", write_statistics=False) as writer:
        for table in parts(source):
            names = [arms.get(name, UNPROBED) for name in table.column("task_id").to_pylist()]
            renamed = [
                "/".join((arm, *name.split("/")[-2:]))
                for arm, name in zip(names, table.column("task_id").to_pylist(), strict=True)
            ]
            changed = {"task_id": renamed, "arm": names, "level": [levels.level(arm) for arm in names]}
            columns = [
                pa.array(changed[f.name], f.type) if f.name in changed else table.column(f.name) for f in declared
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=declared))
    target.replace(source)
