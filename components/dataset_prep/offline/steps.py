"""Reads episodes from Parquet files with one row per step. Such files are easy to write from any other program.

| column | type | meaning |
|---|---|---|
| `episode` | whole number or text | which episode the step belongs to; its rows stand together, in order |
| `observation` | list of numbers | the state before the action; a plain number where it has only one |
| `action` | list of numbers | the action, in the units of the environment |
| `reward` | number | the reward after the action |
| `done` | boolean, or 0 and 1 | the episode ended with this step |
| `terminated`, `truncated` | as `done` | why it ended. If both are there, `done` may be left out |
| `tier` | text | quality of the data, for example `medium`. It may be left out |

With `done` alone, an episode that is shorter than the limit of the environment was terminated, and an episode at the limit was
truncated. An episode without an end is unfinished. It counts as truncated, and `whole` leaves it out where it is a piece.
An episode may go on in the next file. A file is read in batches, so only the numbers themselves are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from instar.components.dataset_prep.offline.episodes import Episodes, Flags, Integers, Singles, build
from instar.components.dataset_prep.offline.tasks import Simulator
from instar.errors import ArtifactError, ContractError

COLUMNS = ("episode", "observation", "action", "reward")
ENDS = ("done", "terminated", "truncated")
BATCH_ROWS = 65_536
ONE_TIER = "data"


def read_steps(files: Sequence[Path], simulator: Simulator) -> Episodes:
    """Return the episodes of the files, one file after another.

    A fault is a `ContractError` that names the file, the column and the row; the first row of a file is 0. Refused are missing
    columns, other types, empty cells, numbers that are not finite, vectors of another length than those of the environment,
    actions outside of its box, steps after the end of an episode, an episode in two places, and one beyond the limit of steps.
    A file that is not Parquet, or is cut short, is an `ArtifactError`.
    """
    steps = _Steps(simulator)
    for path in files:
        with opened(path) as file:
            steps.begin(path, _columns(file.schema_arrow, path))
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=steps.columns, use_threads=False):
                steps.add(batch)
    return steps.episodes(str(files[0] if len(files) == 1 else files[0].parent))


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield the `pyarrow.parquet.ParquetFile`. What it raises for a damaged file becomes an `ArtifactError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ArtifactError(
            expected="a Parquet file",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            where=str(path),
            action="copy the file again",
        ) from error


def _columns(schema: pa.Schema, path: Path) -> list[str]:
    """Return the names of the columns to read. Missing ones are a `ContractError`."""
    missing = [name for name in COLUMNS if name not in schema.names]
    ends = [name for name in ENDS if name in schema.names]
    if not ends or ends == ["truncated"]:
        missing.append("done")
    if missing:
        raise ContractError(
            expected=f"the columns {', '.join((*COLUMNS, 'done'))}",
            found=f"only {', '.join(schema.names) or 'none'}, without {', '.join(missing)}",
            where=str(path),
            action="rename the columns of the file, or add what is missing",
        )
    return [*COLUMNS, *ends, *(["tier"] if "tier" in schema.names else [])]


@dataclass(kw_only=True)
class _Place:
    """A row of a file. `row` is the number of rows before it."""

    path: Path
    row: int = 0

    def fault(self, column: str, offset: int, expected: str, found: Any, action: str) -> ContractError:
        """Return the error for a cell of a batch that begins at this place."""
        where = f"{self.path}:{column}, row {self.row + offset}"
        return ContractError(expected=expected, found=str(found)[:200], where=where, action=action)


@dataclass
class _Steps:
    """Collects steps. `starts` has for each episode its first step, its file and row, and its tier."""

    simulator: Simulator
    columns: list[str] = field(default_factory=list)
    place: _Place = field(default_factory=lambda: _Place(path=Path()))
    chunks: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    starts: list[tuple[int, _Place, str]] = field(default_factory=list)
    count: int = 0
    before: tuple[Any, bool] | None = None
    """Episode of the row before, and whether it ended the episode."""
    names: set[Any] = field(default_factory=set)
    """Episodes of this file so far."""

    def begin(self, path: Path, columns: list[str]) -> None:
        """Begin a file. If the episode before has ended, the same name in this file is another episode."""
        self.place, self.columns, self.names = _Place(path=path), columns, set()
        if self.before is not None and self.before[1]:
            self.before = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Check the rows of a batch, and add them."""
        if not len(batch):
            return
        cells = {name: batch.column(name) for name in self.columns}
        for name, values in cells.items():
            if values.null_count:
                row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
                raise self.place.fault(name, row, "a value in every row", "an empty cell", _REPAIR)
        simulator = self.simulator
        actions = self._vectors("action", cells["action"], simulator.action_dim).astype(np.float32)
        self._check_box(actions)
        ends = self._ends(cells)
        self._cut(cells, ends["done"])
        states = self._vectors("observation", cells["observation"], simulator.state_dim).astype(np.float32)
        rewards = self._vectors("reward", cells["reward"], 1)
        parts: dict[str, npt.NDArray[Any]] = {"observation": states, "action": actions, "reward": rewards, **ends}
        for name, part in parts.items():
            self.chunks.setdefault(name, []).append(part)
        self.count += len(batch)
        self.place = _Place(path=self.place.path, row=self.place.row + len(batch))

    def _vectors(self, name: str, cells: pa.Array, width: int) -> npt.NDArray[np.float64]:
        """Return the numbers of a column, [rows, width]. Every row must have `width` finite numbers."""
        lists = pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)
        if pa.types.is_fixed_size_list(cells.type):
            cells, lists = cells.cast(pa.list_(cells.type.value_type)), True
        inner = cells.type.value_type if lists else cells.type
        if not (pa.types.is_floating(inner) or pa.types.is_integer(inner)) or (lists and name == "reward"):
            kind = "a number" if name == "reward" else f"a list of {width} numbers"
            raise self.place.fault(name, 0, kind, f"the type {cells.type}", _REPAIR)
        sizes = cells.value_lengths().to_numpy(zero_copy_only=False) if lists else np.ones(len(cells), np.int64)
        wrong = np.flatnonzero(sizes != width)
        if len(wrong):
            expected = f"{width} numbers, as in {self.simulator.id}"
            action = "write one environment per data set, with vectors that are flat lists"
            raise self.place.fault(name, int(wrong[0]), expected, int(sizes[wrong[0]]), action)
        flat = cells.flatten() if lists else cells
        values: npt.NDArray[np.float64] = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise self.place.fault(name, int(wrong[0]), "finite numbers", values[wrong[0]].tolist(), _REPAIR)
        return values

    def _check_box(self, actions: Singles) -> None:
        """Raise for the first action outside of the box. Both are compared in single precision, as they are stored."""
        low, high = np.array([self.simulator.action_low, self.simulator.action_high], np.float32)
        wrong = np.flatnonzero(((actions < low) | (actions > high)).any(axis=1))
        if len(wrong):
            expected = f"actions between {low.tolist()} and {high.tolist()}, as in {self.simulator.id}"
            action = "write the actions that the environment got, in its units, clipped to its box"
            raise self.place.fault("action", int(wrong[0]), expected, actions[wrong[0]].tolist(), action)

    def _ends(self, cells: dict[str, pa.Array]) -> dict[str, Flags]:
        """Return the flags `done`, `terminated` and `truncated` of every row. With `done` alone, the other two are False."""
        done, terminated, truncated = (self._flags(name, cells[name]) if name in cells else None for name in ENDS)
        if terminated is None and truncated is None:
            assert done is not None
            return {"done": done, "terminated": np.zeros_like(done), "truncated": np.zeros_like(done)}
        if done is None:
            assert terminated is not None
            done = terminated if truncated is None else terminated | truncated
        if truncated is None:
            assert terminated is not None
            truncated = done & ~terminated
        elif terminated is None:
            terminated = done & ~truncated
        wrong = np.flatnonzero(done != (terminated | truncated))
        if len(wrong):
            row = int(wrong[0])
            flags = f"done {done[row]}, terminated {terminated[row]}, truncated {truncated[row]}"
            raise self.place.fault("done", row, "done exactly where terminated or truncated is", flags, _REPAIR)
        return {"done": done, "terminated": terminated, "truncated": truncated}

    def _flags(self, name: str, cells: pa.Array) -> Flags:
        if not (pa.types.is_boolean(cells.type) or pa.types.is_integer(cells.type)):
            raise self.place.fault(name, 0, "a boolean, or 0 and 1", f"the type {cells.type}", _REPAIR)
        values: npt.NDArray[Any] = cells.to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if len(wrong):
            raise self.place.fault(name, int(wrong[0]), "0 or 1", values[wrong[0]], _REPAIR)
        return values.astype(np.bool_)

    def _cut(self, cells: dict[str, pa.Array], done: Flags) -> None:
        """Note where episodes begin: at a new name. A row after the end of its episode is a fault."""
        names = cells["episode"]
        if not (
            pa.types.is_integer(names.type) or pa.types.is_string(names.type) or pa.types.is_large_string(names.type)
        ):
            raise self.place.fault("episode", 0, "whole numbers or texts", f"the type {names.type}", _REPAIR)
        differ: Any = pc.not_equal  # pyright: ignore[reportAttributeAccessIssue] (pyarrow makes it at import)
        changes = differ(names.slice(1), names.slice(0, len(names) - 1)).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(np.concatenate([[True], changes | done[:-1]])).tolist():
            name, ended = names[row].as_py(), bool(done[row - 1])
            before = (names[row - 1].as_py(), ended) if row else self.before
            if before is None or before[0] != name:
                self._begin_episode(cells, row, name)
            elif before[1]:
                action = "give every episode a name of its own"
                raise self.place.fault("episode", row, "no step after the end of an episode", f"'{name}' again", action)
            else:  # the episode goes on in another batch or file
                self.names.add(name)
        self.before = (names[-1].as_py(), bool(done[-1]))

    def _begin_episode(self, cells: dict[str, pa.Array], row: int, name: Any) -> None:
        if name in self.names:
            action = "sort the rows by episode and step"
            raise self.place.fault("episode", row, "the rows of an episode together", f"'{name}' again", action)
        self.names.add(name)
        tier = str(cells["tier"][row].as_py()) if "tier" in cells else ONE_TIER
        self.starts.append((self.count + row, _Place(path=self.place.path, row=self.place.row + row), tier))

    def episodes(self, where: str) -> Episodes:
        """Return all episodes."""
        if not self.starts:
            raise ContractError(
                expected="at least one step", found="none", where=where, action="choose files that have rows"
            )
        columns = {name: np.concatenate(parts) for name, parts in self.chunks.items()}
        first = np.array([start for start, _, _ in self.starts], np.int64)
        lengths = np.diff(np.append(first, self.count))
        self._check_lengths(lengths)
        ends = first + lengths - 1
        terminated, truncated = columns["terminated"][ends], columns["truncated"][ends]
        unsaid = columns["done"][ends] & ~terminated & ~truncated
        terminated = terminated | (unsaid & (lengths < self.simulator.max_steps))
        return build(
            self.simulator.id,
            action_low=self.simulator.action_low,
            action_high=self.simulator.action_high,
            lengths=lengths,
            observations=columns["observation"],
            actions=columns["action"],
            rewards=columns["reward"][:, 0],
            terminated=terminated,
            truncated=~terminated,
            tier=[tier for _, _, tier in self.starts],
            behaviour="unknown",
            where=where,
        )

    def _check_lengths(self, lengths: Integers) -> None:
        limit = self.simulator.max_steps
        long = np.flatnonzero(lengths > limit)
        if len(long):
            _, place, _ = self.starts[long[0]]
            expected = f"an episode of at most {limit} steps, the limit of {self.simulator.id}"
            action = "mark the end of every episode, or name the environment that has this limit"
            raise place.fault("episode", 0, expected, f"one of {int(lengths[long[0]])} from here on", action)


_REPAIR = "correct the cell where the file is written, or leave its episode out"
