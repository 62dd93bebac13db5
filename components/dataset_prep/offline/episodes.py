"""Episodes of one environment as flat arrays: the steps of the first episode, then those of the second, and so on.

`Episodes` is the common form of offline data. Readers make it, checks and samplers take it, and `table.py` writes it. In the
shapes, n is the number of episodes, and N is the number of all steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from instar.errors import ContractError

Singles = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Episodes:
    """Columns of n episodes with N steps. Make it with `build`, which computes the returns-to-go and checks the shapes.

    An episode is `terminated` when the environment ended it. It is `truncated` when the time was over or the recording stopped. If
    both happened in one step, it counts as terminated. `final_observations` are the observations after the last actions, or None
    when they are unknown.
    """

    env: str
    action_low: Doubles  # [A]
    action_high: Doubles  # [A]
    lengths: Integers  # [n]
    observations: Singles  # [N, S]
    actions: Singles  # [N, A], in the units of the environment
    rewards: Doubles  # [N]
    returns_to_go: Doubles  # [N], undiscounted
    terminated: Flags  # [n]
    truncated: Flags  # [n]
    tier: Texts  # [n], quality of the data, for example "medium"
    behaviour: Texts  # [n], the policy that acted
    seeds: Integers  # [n], of the start state; 0 when unknown
    final_observations: Singles | None = None  # [n, S]

    @property
    def num_episodes(self) -> int:
        """Return n."""
        return len(self.lengths)

    @property
    def num_steps(self) -> int:
        """Return N."""
        return len(self.rewards)

    @property
    def ids(self) -> list[str]:
        """Return the names of the episodes in a table: `<tier>/<number>`."""
        return [f"{tier}/{number}" for number, tier in enumerate(self.tier.tolist())]

    @property
    def offsets(self) -> Integers:
        """Return positions, [n + 1]. Episode i has the steps from `offsets[i]` up to but not including `offsets[i + 1]`."""
        return offsets(self.lengths)

    @property
    def returns(self) -> Doubles:
        """Return the undiscounted return of every episode, [n]."""
        starts = self.offsets
        return np.array([float(self.rewards[a:b].sum()) for a, b in pairwise(starts)])

    def spans(self) -> list[slice]:
        """Return for each episode the slice of the flat arrays that holds its steps."""
        starts = self.offsets.tolist()
        return [slice(a, b) for a, b in pairwise(starts)]

    def select(self, keep: Integers | Flags | Sequence[int]) -> Episodes:
        """Return the episodes at the given indices, in that order, or the episodes where a mask is true."""
        index = np.asarray(keep)
        index = np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64)
        parts = self.spans()
        steps = np.concatenate([np.arange(parts[i].start, parts[i].stop) for i in index] or [np.arange(0)])
        changes: dict[str, Any] = {name: getattr(self, name)[index] for name in PER_EPISODE}
        changes |= {name: getattr(self, name)[steps] for name in PER_STEP}
        if self.final_observations is not None:
            changes["final_observations"] = self.final_observations[index]
        return dataclasses.replace(self, **changes)


PER_EPISODE = ("lengths", "terminated", "truncated", "tier", "behaviour", "seeds")
PER_STEP = ("observations", "actions", "rewards", "returns_to_go")


def offsets(lengths: npt.ArrayLike) -> Integers:
    """Return the positions [n + 1] at which episodes of these lengths begin and end."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def returns_to_go(rewards: Doubles, lengths: Integers) -> Doubles:
    """Return R_t = r_t + R_{t+1} of every step, [N]. R of an episode's last step is its reward. Sums begin at the end of an
    episode."""
    out = np.empty(len(rewards), np.float64)
    starts = offsets(lengths)
    for a, b in pairwise(starts):
        out[a:b] = np.cumsum(rewards[a:b][::-1])[::-1]
    return out


def build(
    env: str,
    *,
    action_low: npt.ArrayLike,
    action_high: npt.ArrayLike,
    lengths: npt.ArrayLike,
    observations: npt.ArrayLike,
    actions: npt.ArrayLike,
    rewards: npt.ArrayLike,
    terminated: npt.ArrayLike,
    truncated: npt.ArrayLike,
    tier: str | npt.ArrayLike,
    behaviour: str | npt.ArrayLike,
    seeds: npt.ArrayLike | None = None,
    final_observations: npt.ArrayLike | None = None,
    where: str = "episodes",
) -> Episodes:
    """Return `Episodes` with arrays of the declared types. Columns that do not fit together are a `ContractError`."""
    sizes = np.asarray(lengths, np.int64)
    n, total = len(sizes), int(sizes.sum())
    states, acts = np.asarray(observations, np.float32), np.asarray(actions, np.float32)
    low, high = np.asarray(action_low, np.float64).ravel(), np.asarray(action_high, np.float64).ravel()
    ends = np.asarray(terminated, np.bool_)
    final = None if final_observations is None else np.asarray(final_observations, np.float32)
    _fits(f"{where}:observations", states.shape, (total, states.shape[-1] if states.ndim == 2 else 1))
    _fits(f"{where}:actions", acts.shape, (total, len(low)))
    _fits(f"{where}:rewards", np.shape(rewards), (total,))
    _fits(f"{where}:terminated", ends.shape, (n,))
    _fits(f"{where}:truncated", np.shape(truncated), (n,))
    if final is not None:
        _fits(f"{where}:final_observations", final.shape, (n, states.shape[1]))
    values = np.asarray(rewards, np.float64)
    return Episodes(
        env=env,
        action_low=low,
        action_high=high,
        lengths=sizes,
        observations=states,
        actions=acts,
        rewards=values,
        returns_to_go=returns_to_go(values, sizes),
        terminated=ends,
        truncated=np.asarray(truncated, np.bool_) & ~ends,
        tier=np.broadcast_to(np.asarray(tier, np.str_), (n,)).copy(),
        behaviour=np.broadcast_to(np.asarray(behaviour, np.str_), (n,)).copy(),
        seeds=np.zeros(n, np.int64) if seeds is None else np.asarray(seeds, np.int64),
        final_observations=final,
    )


def per_episode(how: np.ufunc, values: Doubles, episodes: Episodes) -> Doubles:
    """Return the reduction `how`, for example `np.add`, over the steps of each episode, [n]. It is 0 for an episode without
    steps."""
    out = np.zeros(episodes.num_episodes)
    full = episodes.lengths > 0
    if full.any():
        out[full] = how.reduceat(values, episodes.offsets[:-1][full])
    return out


def concat(parts: Sequence[Episodes]) -> Episodes:
    """Return the episodes of all parts. Parts with different environments, dimensions or action boxes are a `ContractError`."""
    first = parts[0]
    for number, part in enumerate(parts):
        if identity(part) != identity(first):
            raise ContractError(
                expected=f"one environment: {identity(first)}",
                found=identity(part),
                where=f"source {number}",
                action="prepare each environment on its own",
            )
    changes: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in PER_EPISODE + PER_STEP}
    finals = [p.final_observations for p in parts if p.final_observations is not None]
    changes["final_observations"] = np.concatenate(finals) if len(finals) == len(parts) else None
    return dataclasses.replace(first, **changes)


def identity(part: Episodes) -> str:
    """Return a text that is equal for data of the same environment: its id, the two dimensions and the action box."""
    box = f"[{part.action_low.tolist()}, {part.action_high.tolist()}]"
    return (
        f"{part.env}, {part.observations.shape[1]} state and {part.actions.shape[1]} action numbers, actions in {box}"
    )


def _fits(where: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != expected:
        raise ContractError(
            expected=f"shape {expected}, from the lengths of the episodes and the action box",
            found=f"shape {tuple(found)}",
            where=where,
            action="write the source again, because it is cut short or mixes environments",
        )
