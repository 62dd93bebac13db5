"""Episodes as an Arrow table of `RolloutRow`s of kind `continuous`, and as a Parquet file. This is the project's own data format.

One row is one whole episode. No column holds the environment and the action box. They are JSON in the metadata of the schema,
under the key `instar.continuous`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from instar import schema
from instar.components.dataset_prep.offline.episodes import Episodes, Integers, build, offsets
from instar.components.dataset_prep.offline.validate import check_flags, check_returns_to_go
from instar.errors import ArtifactError, ContractError
from instar.rows import RolloutRow

KEY = b"instar.continuous"
_SPACE = "env, state_dim, action_low and action_high under `instar.continuous` of the schema's metadata"


def to_table(episodes: Episodes) -> pa.Table:
    """Return one `RolloutRow` per episode.

    An episode must have exactly one of the flags `terminated` and `truncated`. Otherwise it is a `ContractError`, because the table
    has only the column `truncated`.
    """
    check_flags(episodes)
    n, starts = episodes.num_episodes, episodes.offsets
    ids = episodes.ids
    columns: dict[str, Any] = {
        "rollout_id": ids,
        "task_id": ids,
        "arm": episodes.tier.tolist(),
        "kind": ["continuous"] * n,
        "group_id": ids,
        "policy": episodes.behaviour.tolist(),
        "truncated": episodes.truncated,
        "seed": episodes.seeds,
        "offset": np.zeros(n, np.int64),
        "observations": _lists(episodes.observations, starts),
        "actions": _lists(episodes.actions, starts),
        "rewards": _lists(episodes.rewards, starts),
        "returns_to_go": _lists(episodes.returns_to_go, starts),
    }
    declared = schema.fields(RolloutRow)
    arrays = [_column(columns[f.name], f.arrow) if f.name in columns else _empty(f.arrow, n) for f in declared]
    return pa.Table.from_arrays(arrays, schema=schema.arrow_schema(RolloutRow).with_metadata(_metadata(episodes)))


def from_table(table: pa.Table, where: str = "rows") -> Episodes:
    """Return the episodes of a table that `to_table` made. The table has no `final_observations`.

    Raises `ContractError` for another type of row, for pieces of episodes, for dimensions that vary, and for returns-to-go that are
    not the sums of the rewards.
    """
    schema.check(RolloutRow, table, where)
    space = _space(table, where)
    lengths, rewards = _flat(table, "rewards", 1, None, where)
    _, observations = _flat(table, "observations", int(space["state_dim"]), lengths, where)
    _, actions = _flat(table, "actions", len(space["action_low"]), lengths, where)
    _, stored = _flat(table, "returns_to_go", 1, lengths, where)
    truncated = table.column("truncated").to_numpy()
    pieces = np.flatnonzero(table.column("offset").to_numpy())
    if len(pieces):
        raise _wrong("whole episodes, offset 0", f"offset in row {pieces[0]}", f"{where}:offset", "join the pieces")
    episodes = build(
        space["env"],
        action_low=space["action_low"],
        action_high=space["action_high"],
        lengths=lengths,
        observations=observations,
        actions=actions,
        rewards=rewards[:, 0],
        terminated=~truncated,
        truncated=truncated,
        tier=table.column("arm").to_pylist(),
        behaviour=table.column("policy").to_pylist(),
        seeds=table.column("seed").to_numpy(),
        where=where,
    )
    check_returns_to_go(episodes, stored[:, 0], where)
    return episodes


def write_parquet(episodes: Episodes, path: Path) -> None:
    """Write the table to `path`. The bytes depend only on the episodes."""
    table = to_table(episodes)
    floats = [f"{name}.list.element" for name in ("observations", "actions", "rewards", "returns_to_go")]
    # Bytes of equal significance are stored together. Numbers that were in single precision have many zero bytes, which then
    # compress well.
    write: Any = pq.write_table
    write(
        table,
        path,
        compression="zstd",
        write_statistics=False,
        use_dictionary=False,
        use_byte_stream_split=floats,
        write_page_checksum=True,
    )


def read_parquet(path: Path) -> Episodes:
    """Return the episodes of a Parquet file. A file that is cut short, or that is not Parquet, is an `ArtifactError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            table = file.read(use_threads=False)  # in this thread, as all artifacts are read
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ArtifactError(
            expected="a Parquet file of episodes",
            found=(str(error).splitlines() or [type(error).__name__])[0][:200],
            where=str(path),
            action="copy or record the data set again",
        ) from error
    return from_table(table, where=str(path))


def _metadata(episodes: Episodes) -> dict[bytes, bytes]:
    space = {
        "env": episodes.env,
        "state_dim": int(episodes.observations.shape[1]),
        "action_low": episodes.action_low.tolist(),
        "action_high": episodes.action_high.tolist(),
    }
    return {KEY: json.dumps(space, sort_keys=True).encode()}


def _space(table: pa.Table, where: str) -> dict[str, Any]:
    stored = (table.schema.metadata or {}).get(KEY)
    if stored is None:
        raise _wrong(
            "the environment in the schema's metadata", "no `instar.continuous`", where, "write it with `write_parquet`"
        )
    try:
        space: dict[str, Any] = json.loads(stored)
        fits = len(space["action_low"]) == len(space["action_high"]) and space["state_dim"] >= 1 and space["env"]
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(_SPACE, f"{type(error).__name__}: {error}", where, "write it with `write_parquet`") from error
    if not fits:
        raise _wrong(_SPACE, str(space)[:200], where, "write it with `write_parquet`")
    return space


def _lists(values: npt.NDArray[Any], starts: Integers) -> pa.Array:
    """Return one cell of type list<double> per episode. `values` is [N] or [N, width]. There is no loop over numbers."""
    width = 1 if values.ndim == 1 else values.shape[1]
    flat = pa.array(np.ascontiguousarray(values, np.float64).ravel())
    return pa.ListArray.from_arrays(pa.array((starts * width).astype(np.int32)), flat)


def _column(values: Any, arrow: pa.DataType) -> pa.Array:
    return values.cast(arrow) if isinstance(values, pa.Array) else pa.array(values, type=arrow)


def _empty(arrow: pa.DataType, n: int) -> pa.Array:
    """Return n empty lists, for columns that only other kinds of trajectories use."""
    zeros = pa.array(np.zeros(n + 1, np.int32))
    return pa.ListArray.from_arrays(zeros, pa.array([], type=arrow.value_type), type=arrow)


def _flat(
    table: pa.Table, name: str, width: int, lengths: Integers | None, where: str
) -> tuple[Integers, npt.NDArray[np.float64]]:
    """Return the steps of each row and all numbers as [N, width]. A row of another length is a `ContractError`."""
    cells = table.column(name).combine_chunks()
    sizes = cells.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    expected = sizes if lengths is None else lengths * width
    wrong = np.flatnonzero(sizes != expected)
    if len(wrong):
        row = int(wrong[0])
        raise _wrong(
            f"{int(expected[row])} numbers, {width} a step",
            f"{int(sizes[row])}",
            f"{where}:{name} of episode {row}",
            "one environment per data set, one number of every column per step",
        )
    values = cells.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return np.diff(offsets(sizes // width)), values


def _wrong(expected: str, found: str, where: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action=action)
