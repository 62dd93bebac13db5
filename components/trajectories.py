"""Logged episodes in memory: flat arrays of all steps, and windows as left-padded indices into these arrays.

A `Rollouts` artifact is read once per process and digest. Rollout, reward and update all use the windows of this module, so a
window means the same steps to each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from instar.artifact import Rollouts
from instar.errors import ContractError
from instar.resident import Kind, Resident

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

RETURN_TOLERANCE = 1e-5
"""Largest relative error of a stored return-to-go. It allows for sums of rewards in single precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """M windows of at most K steps, left-padded to K. They say which steps of the flat arrays they have, and where each step is."""

    episodes: Integers  # [M]
    starts: Integers  # [M], first step within the episode
    rows: Integers  # [M, K], index into the flat arrays; padding has the index of the window's first step
    mask: Flags  # [M, K], True at steps, False at padding
    timesteps: Integers  # [M, K], step within the episode, 0 at padding
    last: Flags  # [M, K], True where a step is the last one of its episode

    @property
    def lengths(self) -> Integers:
        """Return the number of steps of every window, [M]."""
        counts: Integers = self.mask.sum(axis=1, dtype=np.int64)
        return counts

    @property
    def after(self) -> Integers:
        """Return the indices [M, K] of the following steps. They mean nothing at the last step of an episode and at padding."""
        return self.rows + (self.mask & ~self.last)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectories:
    """n episodes with N steps in all. `observations[offsets[e] + t]` is step t of episode e."""

    ids: tuple[str, ...]
    arms: tuple[str, ...]
    lengths: Integers  # [n]
    offsets: Integers  # [n + 1]
    observations: Singles  # [N, S], as logged
    actions: Singles  # [N, A], in the environment's units
    rewards: Doubles  # [N]
    returns_to_go: Doubles  # [N], undiscounted, not scaled
    truncated: Flags  # [n]
    index: dict[str, int] = field(repr=False)
    """Id -> number of the episode."""

    @property
    def returns(self) -> Doubles:
        """Return the undiscounted return of every episode, [n]."""
        return self.returns_to_go[self.offsets[:-1]]

    def find(self, ids: list[str], where: str) -> Integers:
        """Return the numbers of the episodes with these ids. Raises `ContractError` for an id that is not logged."""
        try:
            return np.array([self.index[name] for name in ids], np.int64)
        except KeyError as error:
            raise ContractError(
                expected="an episode of the logged trajectories",
                found=f"'{error.args[0]}'",
                where=where,
                action="use tasks, rollouts and data of one dataset preparation",
            ) from None

    def windows(self, episodes: Integers, starts: Integers, steps: int, where: str = "windows") -> Windows:
        """Return windows of `steps` steps from `start` on. A window is shorter where its episode ends before.

        Raises `ContractError` for a start outside its episode.
        """
        sizes = self.lengths[episodes]
        wrong = np.flatnonzero((starts < 0) | (starts >= sizes))
        if len(wrong):
            first = int(wrong[0])
            raise ContractError(
                expected=f"a start in 0..{int(sizes[first]) - 1} of episode {self.ids[int(episodes[first])]}",
                found=f"{int(starts[first])}",
                where=f"{where}:{first}",
                action="use tasks, rollouts and data of one dataset preparation",
            )
        taken = np.minimum(sizes - starts, steps)
        place = np.arange(steps) - (steps - taken)[:, None]  # step within the window, negative at padding
        mask = place >= 0
        timesteps = np.where(mask, starts[:, None] + place, 0)
        return Windows(
            episodes=episodes,
            starts=starts,
            rows=(self.offsets[:-1][episodes] + starts)[:, None] + np.maximum(place, 0),
            mask=mask,
            timesteps=timesteps,
            last=mask & (timesteps == sizes[:, None] - 1),
        )

    def conditions(self, windows: Windows, scale: float, delayed: bool = False) -> Singles:
        """Return the returns-to-go [M, K] of the steps of windows, divided by `scale`. Padding has 0.

        With `delayed` the whole return is paid at the last step, so all steps of an episode have the same return-to-go.
        """
        values = self.returns[windows.episodes][:, None] if delayed else self.returns_to_go[windows.rows]
        return np.where(windows.mask, values / scale, 0.0).astype(np.float32)


TRAJECTORIES: Kind[Trajectories] = Kind("trajectories", newest=1)


def open_trajectories(data: Rollouts | None, resident: Resident, who: str) -> Trajectories:
    """Return the episodes of `data`. They stay resident until other data is opened.

    Raises `ContractError` without data, for rows that are not whole episodes of continuous control, for dimensions that vary,
    and for returns-to-go that are not the sums of the rewards. `who` is the name of the reader in the error.
    """
    if data is None:
        raise ContractError(
            expected="logged trajectories",
            found="none",
            where=f"{who}.data",
            action="prepare the data with dataset_prep.strategy=offline, and connect it",
        )
    trajectories = resident.get(TRAJECTORIES, data.digest)
    if trajectories is None:
        trajectories = from_table(data.table(), f"Rollouts {data.digest}")
        if data.digest:
            resident.put(TRAJECTORIES, data, trajectories)
    return trajectories


def from_table(table: pa.Table, where: str) -> Trajectories:
    """Return the episodes of a checked table of `RolloutRow`s. `open_trajectories` says what is refused."""
    ids = tuple(table.column("rollout_id").to_pylist())
    _whole_episodes(table, ids, where)
    rewards, lengths = _flat(table, "rewards")
    if not lengths.all():
        raise _wrong("an episode of at least one step", "no step", f"{where}:rewards of {ids[int(np.argmin(lengths))]}")
    columns = {name: _flat(table, name) for name in ("observations", "actions", "returns_to_go")}
    widths = {name: _width(lengths, sizes, ids, f"{where}:{name}") for name, (_, sizes) in columns.items()}
    if widths["returns_to_go"] != 1:
        raise _wrong("one return-to-go per step", f"{widths['returns_to_go']}", f"{where}:returns_to_go")
    trajectories = Trajectories(
        ids=ids,
        arms=tuple(table.column("arm").to_pylist()),
        lengths=lengths,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        observations=columns["observations"][0].astype(np.float32).reshape(-1, widths["observations"]),
        actions=columns["actions"][0].astype(np.float32).reshape(-1, widths["actions"]),
        rewards=rewards,
        returns_to_go=columns["returns_to_go"][0],
        truncated=table.column("truncated").to_numpy(),
        index={name: number for number, name in enumerate(ids)},
    )
    _check_returns(trajectories, where)
    return trajectories


def _whole_episodes(table: pa.Table, ids: tuple[str, ...], where: str) -> None:
    kinds = set(table.column("kind").unique().to_pylist())
    if kinds != {"continuous"}:
        raise _wrong("rows of kind 'continuous'", f"{sorted(kinds) or 'no rows'}", f"{where}:kind")
    pieces = np.flatnonzero(table.column("offset").to_numpy())
    if len(pieces):
        raise _wrong(
            "whole episodes, which have offset 0",
            "a later part of an episode",
            f"{where}:offset of {ids[int(pieces[0])]}",
        )


def _flat(table: pa.Table, name: str) -> tuple[Doubles, Integers]:
    """Return all numbers of a list column, and how many of them each row has."""
    cells = table.column(name).combine_chunks()
    sizes = cells.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return np.array(cells.flatten().to_numpy(zero_copy_only=False), np.float64), sizes


def _width(lengths: Integers, sizes: Integers, ids: tuple[str, ...], where: str) -> int:
    """Return how many numbers a step has. All episodes must agree on it."""
    width = int(sizes[0] // lengths[0])
    wrong = np.flatnonzero(sizes != max(width, 1) * lengths)
    if len(wrong):
        row = int(wrong[0])
        expected = f"{max(width, 1)} numbers for each of {int(lengths[row])} steps"
        raise _wrong(expected, f"{int(sizes[row])} in all", f"{where} of {ids[row]}")
    return width


def _check_returns(logged: Trajectories, where: str) -> None:
    """Raise `ContractError` unless R_t = r_t + R_{t+1}, and R = r at the last step of every episode."""
    following = np.append(logged.returns_to_go[1:], 0.0)
    following[logged.offsets[1:] - 1] = 0.0
    gap = np.abs(logged.returns_to_go - logged.rewards - following)
    limit = RETURN_TOLERANCE * (1.0 + np.abs(logged.returns_to_go))
    wrong = np.flatnonzero(gap > limit)
    if len(wrong):
        step = int(wrong[0])
        episode = int(np.searchsorted(logged.offsets, step, side="right")) - 1
        raise _wrong(
            f"{logged.rewards[step] + following[step]:.9g}, the sum of this reward and the return-to-go after it",
            f"{logged.returns_to_go[step]:.9g}",
            f"{where}:returns_to_go of {logged.ids[episode]}, step {step - int(logged.offsets[episode])}",
        )


def _wrong(expected: str, found: str, where: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action="prepare the data again")
