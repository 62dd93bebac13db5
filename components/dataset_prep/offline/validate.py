"""Checks of offline episodes: the first fault is a `ContractError` that names the episode and the step.

These are the same facts that the suite generated from `EpisodeRow` checks per episode; here they come with a position.
"""

from __future__ import annotations

import numpy as np

from instar.components.dataset_prep.offline.episodes import Doubles, Episodes, Flags, per_episode
from instar.errors import ContractError

TOLERANCE = 1e-6


def validate(episodes: Episodes, *, max_steps: int | None = None, where: str = "episodes") -> None:
    """Raise `ContractError` unless every episode has a step, is finite, keeps to the action box, ends exactly once and has
    returns-to-go that its rewards add up to. `max_steps` is the time limit of the environment: an episode beyond it has
    lost its time-out."""
    check_lengths(episodes, max_steps, where)
    check_finite(episodes, where)
    check_actions(episodes, where)
    check_flags(episodes, where)
    check_returns_to_go(episodes, episodes.returns_to_go, where)


def whole(episodes: Episodes, max_steps: int, where: str = "episodes") -> Episodes:
    """Return the episodes that came to their end; `ContractError` when none did.

    An episode that was cut before the time limit of `max_steps` steps is a piece: the recording stopped. Its return is that of a
    part, and where rewards are negative a short part looks better than the best episode. Nothing may be conditioned on it. Some
    recordings count the limit from 0, so an episode of one step less is whole.
    """
    ended = episodes.terminated | (episodes.lengths >= max_steps - 1)
    if not ended.any():
        raise _wrong(
            f"an episode that ended, in a terminal state or at the limit of {max_steps} steps",
            f"{episodes.num_episodes} pieces of at most {int(episodes.lengths.max())} steps",
            where,
            "record whole episodes, or mark terminal states",
        )
    return episodes if ended.all() else episodes.select(ended)


def check_lengths(episodes: Episodes, max_steps: int | None, where: str = "episodes") -> None:
    """Raise unless there is an episode, none is empty, none outlasts `max_steps` and the lengths add up to all steps."""
    if not episodes.num_episodes:
        raise _wrong("at least one episode", "none", where, "choose another source or tier")
    empty = np.flatnonzero(episodes.lengths < 1)
    if len(empty):
        raise _wrong("at least one step", "none", f"{where}:episode {empty[0]}", "drop the episode at its source")
    total = int(episodes.lengths.sum())
    if total != episodes.num_steps:
        raise _wrong(f"{episodes.num_steps} steps", f"lengths that sum to {total}", where, "write the source again")
    long = np.flatnonzero(episodes.lengths > (max_steps or np.iinfo(np.int64).max))
    if len(long):
        raise _wrong(
            f"episodes of at most {max_steps} steps, the time limit of {episodes.env}",
            f"{int(episodes.lengths[long[0]])} steps",
            f"{where}:episode {long[0]}",
            "the source has lost its time-out flags: get a version that has them",
        )


def check_finite(episodes: Episodes, where: str = "episodes") -> None:
    """Raise at the first observation, action, reward or final observation that is NaN or infinite."""
    for name in ("observations", "actions", "rewards"):
        values = getattr(episodes, name).reshape(episodes.num_steps, -1)
        _first_step(episodes, ~np.isfinite(values).all(axis=1), name, "finite numbers", where)
    final = episodes.final_observations
    if final is not None and not np.isfinite(final).all():
        number = int(np.flatnonzero(~np.isfinite(final).all(axis=1))[0])
        found = str(final[number].tolist())
        raise _wrong("finite numbers", found, f"{where}:final observation of episode {number}", _AGAIN)


def check_actions(episodes: Episodes, where: str = "episodes") -> None:
    """Raise at the first action outside of the environment's box (edges belong to it)."""
    bad = action_excess(episodes) > 0.0
    box = f"actions in [{episodes.action_low.tolist()}, {episodes.action_high.tolist()}]"
    _first_step(episodes, bad, "actions", box, where)


def check_flags(episodes: Episodes, where: str = "episodes") -> None:
    """Raise unless every episode ends exactly once, by a terminal state or by a time-out."""
    ends = episodes.terminated.astype(np.int64) + episodes.truncated
    wrong = np.flatnonzero(ends != 1)
    if len(wrong):
        raise _wrong(
            "one terminal or time-out flag",
            f"{int(ends[wrong[0]])}",
            f"{where}:episode {wrong[0]}, step {int(episodes.lengths[wrong[0]]) - 1}",
            "the source has lost its flags, or an episode was cut by hand: mark its end",
        )


def check_returns_to_go(episodes: Episodes, stored: Doubles, where: str = "episodes") -> None:
    """Raise at the first step where `stored` [N] is not its reward plus the next step's value, 0 after the last step."""
    gap = return_gap(episodes, stored)
    bad = ~(gap <= TOLERANCE)
    if bad.any():
        step = int(np.flatnonzero(bad)[0])
        episode = int(np.searchsorted(episodes.offsets, step, side="right")) - 1
        last = step == episodes.offsets[episode + 1] - 1
        expected = float(episodes.rewards[step]) + (0.0 if last else float(stored[step + 1]))
        raise _wrong(
            f"return-to-go {expected:.9g}, the reward plus what follows",
            f"{float(stored[step]):.9g}",
            f"{where}:episode {episode}, step {step - int(episodes.offsets[episode])}",
            "compute the returns-to-go again from undiscounted rewards",
        )


def action_excess(episodes: Episodes) -> Doubles:
    """Return how far each step leaves the action box, [N]: at most 0 inside. A step of NaN alone gives NaN."""
    # The box in single precision, as actions are: an action at the edge is inside.
    low, high = episodes.action_low.astype(np.float32), episodes.action_high.astype(np.float32)
    over = np.fmax(low - episodes.actions, episodes.actions - high)
    worst: Doubles = np.fmax.reduce(over.astype(np.float64), axis=1)
    return worst


def return_gap(episodes: Episodes, stored: Doubles) -> Doubles:
    """Return |R_t - r_t - R_{t+1}| of every step, divided by the episode's largest |R| (at least 1), [N]."""
    following = np.append(stored[1:], 0.0)[: len(stored)]
    following[episodes.offsets[1:][episodes.lengths > 0] - 1] = 0.0
    scale = np.maximum(1.0, per_episode(np.fmax, np.abs(stored), episodes))
    gap: Doubles = np.abs(stored - episodes.rewards - following) / np.repeat(scale, episodes.lengths)
    return gap


_AGAIN = "drop the episode at its source, or record it again"


def _first_step(episodes: Episodes, bad: Flags, name: str, expected: str, where: str) -> None:
    """Raise for the first step of the mask `bad` [N]."""
    if bad.any():
        step = int(np.flatnonzero(bad)[0])
        episode = int(np.searchsorted(episodes.offsets, step, side="right")) - 1
        at = f"{where}:{name} of episode {episode}, step {step - int(episodes.offsets[episode])}"
        raise _wrong(expected, str(getattr(episodes, name)[step].tolist()), at, _AGAIN)


def _wrong(expected: str, found: str, where: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action=action)
