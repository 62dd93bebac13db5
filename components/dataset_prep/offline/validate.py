"""Checks of offline episodes. The first fault is a `ContractError` that names the episode and the step.

The suite made from `EpisodeRow` checks the same facts for whole episodes. The checks here also name the step.
"""

from __future__ import annotations

import numpy as np

from instar.components.dataset_prep.offline.episodes import Doubles, Episodes, Flags, per_episode
from instar.errors import ContractError

TOLERANCE = 1e-6


def validate(episodes: Episodes, *, max_steps: int | None = None, where: str = "episodes") -> None:
    """Raise `ContractError` for the first fault of the episodes.

    Every episode must have a step, finite numbers, actions inside of the box, exactly one end, and returns-to-go that are the sums
    of its rewards. `max_steps` is the time limit of the environment. An episode that is longer has lost its time-out flag.
    """
    check_lengths(episodes, max_steps, where)
    check_finite(episodes, where)
    check_actions(episodes, where)
    check_flags(episodes, where)
    check_returns_to_go(episodes, episodes.returns_to_go, where)


def whole(episodes: Episodes, max_steps: int, where: str = "episodes") -> Episodes:
    """Return the episodes that are whole. If there are none, that is a `ContractError`.

    A truncated episode that is shorter than the time limit `max_steps` is only a piece: the recording stopped inside it. Its return
    is that of a part. If rewards are negative, a short piece looks better than the best whole episode. So no policy may learn from
    the return of a piece. Some recordings count the steps of the limit from 0, so one step less than the limit is also whole.
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
    """Raise if there is no episode, if one is empty or longer than `max_steps`, or if the lengths do not add up to all steps."""
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
            "get a version of the source that has its time-out flags, because this one has lost them",
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
    """Raise at the first action outside of the action box. An action on the edge of the box is inside."""
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
            "mark the end of the episode, because the source has lost its flags or was cut by hand",
        )


def check_returns_to_go(episodes: Episodes, stored: Doubles, where: str = "episodes") -> None:
    """Raise at the first step where `stored` [N] is not the reward plus the stored value of the next step.

    After the last step of an episode, the next value is 0.
    """
    gap = return_gap(episodes, stored)
    bad = ~(gap <= TOLERANCE)
    if bad.any():
        step = int(np.flatnonzero(bad)[0])
        episode = int(np.searchsorted(episodes.offsets, step, side="right")) - 1
        ends = step == episodes.offsets[episode + 1] - 1
        expected = float(episodes.rewards[step]) + (0.0 if ends else float(stored[step + 1]))
        raise _wrong(
            f"return-to-go {expected:.9g}, the reward plus the return-to-go of the next step",
            f"{float(stored[step]):.9g}",
            f"{where}:episode {episode}, step {step - int(episodes.offsets[episode])}",
            "compute the returns-to-go again from undiscounted rewards",
        )


def action_excess(episodes: Episodes) -> Doubles:
    """Return how far the action of each step is outside of the box, [N]. Inside it is at most 0. An action of only NaN gives
    NaN."""
    # Actions are in single precision, and so is this box. Otherwise rounding could put an action on the edge outside.
    low, high = episodes.action_low.astype(np.float32), episodes.action_high.astype(np.float32)
    over = np.fmax(low - episodes.actions, episodes.actions - high)
    worst: Doubles = np.fmax.reduce(over.astype(np.float64), axis=1)
    return worst


def return_gap(episodes: Episodes, stored: Doubles) -> Doubles:
    """Return |R_t - r_t - R_{t+1}| of every step, [N], divided by the largest |R| of its episode, or by 1 if that is below 1."""
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
