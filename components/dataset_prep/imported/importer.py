"""Imports rows in two passes and writes a folder of `ImportedTasks`. Memory holds one batch, one bucket, and the levels.

The first pass reads, checks and spills the rows. The second pass finds duplicates, gives every row its arm and its split, and
writes the buckets in the order of their hashes. So the written rows do not depend on the order of the rows in the files.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instar import config as configs
from instar import schema
from instar.artifact import ImportedTasks
from instar.components.dataset_prep.imported import arms as arms_of
from instar.components.dataset_prep.imported import duplicates, splits
from instar.components.dataset_prep.imported.cells import Form, Reader, Task, form_of
from instar.components.dataset_prep.imported.columns import Columns, cell, guess
from instar.components.dataset_prep.imported.duplicates import Conflicts, Repeated
from instar.components.dataset_prep.imported.part import BATCH, Part, refused
from instar.components.dataset_prep.imported.source import Source, open_source, split_of_cell
from instar.components.dataset_prep.imported.spool import Spool, columns_of
from instar.components.dataset_prep.imported_config import MOST_CHARACTERS, ImportedArm, ImportedConfig
from instar.errors import ConfigError
from instar.rows import TaskRow
from instar.store_files import make_folder, storage_errors

GENERATOR = "imported/1"
DOMAIN = "imported"
SAMPLE = 100
"""How many rows the guess looks at."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about the rows. Columns that are not named are guessed."""

    columns: Columns = field(default_factory=Columns)
    form: str = "text"
    """`chat` puts every prompt into the chat template of the model. Conversations always are."""
    shares: splits.Shares = field(default_factory=splits.Shares)
    duplicates: Repeated = "refuse"
    conflicts: Conflicts = "refuse"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was imported: the columns, the configuration, how many rows were left out and why, and warnings for people."""

    columns: Columns
    config: ImportedConfig
    format: str
    digest: str
    num_read: int
    left_out: dict[str, int]
    warnings: tuple[str, ...]
    samples: tuple[dict[str, str], ...]

    def record(self) -> dict[str, Any]:
        """Return the content of `import.json`."""
        return {
            "columns": self.columns.named(),
            "layout": self.columns.layout,
            "dropped_columns": list(self.columns.drop),
            "config": configs.to_dict(self.config),
            "format": self.format,
            "source": self.digest,
            "num_read": self.num_read,
            "left_out": self.left_out,
            "warnings": list(self.warnings),
        }


def import_tasks(path: str, out: Path, options: Options | None = None, say: Say = lambda text: None) -> Imported:
    """Import the rows at `path` into the folder `out`, which must be new or empty. Return what was imported.

    Raises `ContractError` with file, row and column for a row that no task can hold, and for duplicates. Raises `ConfigError` for a
    guess that is not clear and for a path without rows.
    """
    options = options or Options()
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            expected="a new or empty folder", found="files", where=str(out), action="remove it, or choose another -o"
        )
    source = open_source(path, options.columns.drop)
    sample = list(islice((row for part in source.parts for batch in part.read() for _, row in batch), SAMPLE))
    if not sample:
        raise ConfigError(expected="rows", found="none", where=path, action="check the file")
    columns = guess(sample, options.columns, path)
    form = form_of(cell(next(iter(sample)), columns.prompt), options.form)
    with storage_errors(out):
        make_folder(out)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=out) as scratch:
        reading = _Reading(source, Reader(columns=columns, form=form), Path(scratch))
        reading.run(say)
        imported = _write(reading, source, columns, form, options, ImportedTasks(Path(scratch)))
        (Path(scratch) / "rows.parquet").replace(out / "rows.parquet")
    ImportedTasks(out).write_json("import.json", imported.record())
    return imported


class _Reading:
    """The first pass: checks all rows and spills them. It collects what the arms and the configuration follow from."""

    def __init__(self, source: Source, reader: Reader, scratch: Path) -> None:
        self.parts, self._reader = source.parts, reader
        self.spool = Spool(scratch, source.size() or 1 << 31)
        self.labels = arms_of.Labels(column=reader.columns.arm)
        self.words = arms_of.Labels(column=reader.columns.level, most=arms_of.MOST_LEVELS + 1)
        self.levels: array[float] = array("d")
        self._numbers = False
        self.named: set[int] = set()
        self.count = self.longest_prompt = self.longest_answer = 0
        self.answers: set[str] = set()
        self.lines = False
        self.alphabet: set[str] = set()

    def run(self, say: Say) -> None:
        """Read all parts."""
        for number, part in enumerate(self.parts):
            for batch in part.read():
                self._add(number, part, [(row, self._reader.task(cells, part, row)) for row, cells in batch])
                if self.count // BATCH % 16 == 0:
                    say(f"{self.count:,} rows read")
        self.spool.close()

    def _add(self, number: int, part: Part, rows: list[tuple[int, Task]]) -> None:
        tasks = [task for _, task in rows]
        levels = [self._level(task, part, row) for row, task in rows]
        named = [self._split(task, part, row) for row, task in rows]
        answers = [task.answer for task in tasks if task.answer is not None]
        self.spool.add(
            {
                **columns_of(tasks),
                "answer": [hash(task.answer if task.answer is not None else task.reference) & MASK for task in tasks],
                "arm": [self.labels.number(t.arm, part.place(r)) if t.arm else 0 for r, t in rows],
                "level": levels,
                "split": named,
                "part": np.full(len(rows), number),
                "row": [row for row, _ in rows],
            }
        )
        self.count += len(rows)
        self.named.update(named)
        if self._reader.columns.level:
            self.levels.extend(levels)
        self.longest_prompt = max(self.longest_prompt, *(len(task.prompt) for task in tasks))
        self.longest_answer = max(self.longest_answer, *map(len, answers), 0)
        self.lines = self.lines or any("\n" in answer.strip() for answer in answers)
        self.answers.update("text" if task.answer is not None else _kind(task) for task in tasks)
        if len(self.alphabet) <= MOST_CHARACTERS:
            self.alphabet.update("".join([task.prompt for task in tasks]), "".join(answers))

    def _level(self, task: Task, part: Part, row: int) -> float:
        """Return the level as a number: itself, or the number of its word. All levels of a data set are of one kind."""
        level = task.level
        if level is None:
            return 0.0
        place = part.place(row, self._reader.columns.level)
        if isinstance(level, float) and not self.words.numbers:
            self._numbers = True
            return level
        if self._numbers:
            action = "write all levels as numbers, or all as words"
            raise refused("a number, as in the rows before", level, place, action)
        return float(self.words.number(level if isinstance(level, str) else f"{level:g}", place))

    def _split(self, task: Task, part: Part, row: int) -> int:
        if self._reader.columns.split:
            place = part.place(row, self._reader.columns.split)
            return splits.NAMES.index(split_of_cell(task.split, place))
        return splits.NAMES.index(part.split) if part.split else splits.NONE


MASK = (1 << 63) - 1


def _kind(task: Task) -> str:
    return "none" if '"answer":null' in task.reference else "nested"


@dataclass(frozen=True, kw_only=True)
class _Pools:
    """How a bucket becomes rows of tasks."""

    arms: arms_of.Arms
    shares: splits.Shares
    form: Form

    def columns(self, bucket: pa.Table) -> dict[str, np.ndarray]:
        """Return key, answer, arm, level, split, part and row of a bucket."""
        names = ("key", "answer", "arm", "level", "split", "part", "row")
        columns = {name: bucket.column(name).to_numpy() for name in names}
        columns["level"] = self.arms.levels(columns["level"])
        columns["arm"] = self.arms.of(columns["arm"], columns["level"])
        columns["split"] = splits.assign(columns["key"], columns["split"], self.shares)
        return columns

    def table(self, bucket: pa.Table, columns: dict[str, np.ndarray], rows: np.ndarray) -> pa.Table:
        """Return the rows of tasks, in the order of `rows`."""
        taken = bucket.take(pa.array(rows))
        arms = [self.arms.names[number] for number in columns["arm"][rows].tolist()]
        pools = [splits.NAMES[number] for number in columns["split"][rows].tolist()]
        hashes = [content.hex() for content in taken.column("content").to_pylist()]
        constants = {
            "domain": DOMAIN,
            "verifier": "exact",
            "features": "{}",
            "generator": GENERATOR,
            "seed": 0,
            "form": self.form,
        }
        values: dict[str, Any] = {
            "task_id": [f"{a}/{s}/{h[:16]}" for a, s, h in zip(arms, pools, hashes, strict=True)],
            "arm": arms,
            "level": columns["level"][rows],
            "split": pools,
            "prompt": taken.column("prompt").combine_chunks(),
            "reference": taken.column("reference").combine_chunks(),
            "content_hash": hashes,
            **{name: [value] * len(rows) for name, value in constants.items()},
        }
        declared = schema.arrow_schema(TaskRow)
        return pa.table([pa.array(values[f.name], f.type) for f in declared], schema=declared)


def _write(
    reading: _Reading, source: Source, columns: Columns, form: Form, options: Options, out: ImportedTasks
) -> Imported:
    """The second pass. Return what was imported."""
    named = {splits.NAMES[number] for number in reading.named if number != splits.NONE}
    arms = arms_of.build(
        [*reading.labels.numbers], [*reading.words.numbers], reading.levels, columns.arm or columns.level
    )
    pools = _Pools(arms=arms, shares=options.shares.without(named), form=form)
    repeats, counts = duplicates.Repeats(), Counter[tuple[int, int]]()
    for bucket in reading.spool.buckets():
        labels = pools.columns(bucket)
        rows = duplicates.remaining(labels, options.conflicts, repeats)
        counts.update(zip(labels["arm"][rows].tolist(), labels["split"][rows].tolist(), strict=True))
    repeats.check(options.duplicates, options.conflicts, lambda part, row: reading.parts[part].place(row))
    alone = {place for place, count in counts.items() if count == 1 and splits.NAMES[place[1]] != "train"}
    levels, samples = _rows(reading, pools, options, alone, out)
    config = _config(reading, pools, counts, alone, levels, form)
    left_out = {kind: count for kind, count in repeats.counts.items() if count and not _accepted(kind, options)}
    left_out |= {"alone in their pool": len(alone)} if alone else {}
    return Imported(
        columns=columns,
        config=config,
        format=source.format,
        digest=source.digest(),
        num_read=reading.count,
        left_out=left_out,
        warnings=tuple(_warnings(config, counts, alone, pools, options)),
        samples=tuple(samples),
    )


def _accepted(kind: str, options: Options) -> bool:
    return kind == "conflicts" and options.conflicts == "keep"


def _rows(
    reading: _Reading, pools: _Pools, options: Options, alone: set[tuple[int, int]], out: ImportedTasks
) -> tuple[dict[int, float], list[dict[str, str]]]:
    """Write the rows. Return the mean level of the arms by number, and three rows to show."""
    sums: dict[int, float] = defaultdict(float)
    rows_of = Counter[int]()
    samples: list[dict[str, str]] = []
    with storage_errors(out.path), _writer(out.path / "rows.parquet") as writer:
        for bucket in reading.spool.buckets():
            columns = pools.columns(bucket)
            rows = duplicates.remaining(columns, options.conflicts, duplicates.Repeats())
            places = zip(columns["arm"][rows].tolist(), columns["split"][rows].tolist(), strict=True)
            rows = rows[np.fromiter((place not in alone for place in places), dtype=bool, count=len(rows))]
            if not len(rows):
                continue
            table = pools.table(bucket, columns, rows)
            schema.check(TaskRow, table, where="imported rows")
            writer.write_table(table)
            samples += _samples(table, 3 - len(samples))
            for arm in np.unique(columns["arm"][rows]).tolist():
                inside = columns["level"][rows][columns["arm"][rows] == arm]
                sums[arm] += float(inside.sum())
                rows_of[arm] += len(inside)
    return {arm: sums[arm] / rows_of[arm] for arm in rows_of}, samples


def _writer(path: Path) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema.arrow_schema(TaskRow), compression="zstd", write_statistics=False)


def _samples(table: pa.Table, count: int) -> Iterator[dict[str, str]]:
    for row in table.slice(0, max(0, count)).select(["task_id", "prompt", "reference"]).to_pylist():
        yield dict(row)


def _config(
    reading: _Reading,
    pools: _Pools,
    counts: Counter[tuple[int, int]],
    alone: set[tuple[int, int]],
    levels: dict[int, float],
    form: Form,
) -> ImportedConfig:
    arms = []
    for number, name in enumerate(pools.arms.names):
        sizes = {
            split: counts[number, place] if (number, place) not in alone else 0
            for place, split in enumerate(splits.NAMES)
        }
        if any(sizes.values()):
            arms.append(ImportedArm(name=name, level=round(levels[number], 6), **sizes))
    few = len(reading.alphabet) <= MOST_CHARACTERS
    return ImportedConfig(
        arms=tuple(arms),
        form=form,
        answers="text" if reading.answers == {"text"} else "none" if reading.answers == {"none"} else "nested",
        levels=bool(reading.levels),
        longest_prompt=reading.longest_prompt,
        longest_answer=reading.longest_answer,
        answers_have_lines=reading.lines,
        alphabet="".join(sorted(reading.alphabet)) if few else "",
    )


def _warnings(
    config: ImportedConfig,
    counts: Counter[tuple[int, int]],
    alone: set[tuple[int, int]],
    pools: _Pools,
    options: Options,
) -> Iterator[str]:
    val, rows = sum(arm.val for arm in config.arms), sum(counts.values())
    if val < 20:
        yield f"the gate compares policies on {val} validation tasks and asks for 20: pass a larger --val"
    held = sum(count for (_, place), count in counts.items() if splits.NAMES[place] != "train")
    if held > 20_000 and pools.shares.val + pools.shares.test > 0:
        yield (
            f"{held:,} of {rows:,} rows are held out, and an evaluation asks a few hundred of them; a smaller --val and --test "
            "leave more rows for training, and each row keeps its split only while the shares stay the same"
        )
    if alone:
        names = sorted({pools.arms.names[arm] for arm, _ in alone})
        yield f"{len(alone)} rows are left out, because one task alone in a pool has no interval: {', '.join(names[:5])}"
    if config.answers != "text":
        yield "not every answer is a text, so these tasks need a reward function of your own (--reward)"
    del options


def describe(shown: Sequence[ImportedArm]) -> list[str]:
    """Return a line for each arm with the sizes of its pools."""
    width = max(len(arm.name) for arm in shown)
    lines = [f"{'arm':<{width}}  {'level':>8} {'train':>9} {'val':>7} {'id':>7} {'ood':>7}"]
    return lines + [f"{a.name:<{width}}  {a.level:>8g} {a.train:>9,} {a.val:>7,} {a.id:>7,} {a.ood:>7,}" for a in shown]
