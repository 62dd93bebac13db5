"""D4RL files: flat HDF5 arrays of one long recording. Flags in the file say where an episode ends.

The arrays are `observations` [N, S], `actions` [N, A], `rewards`, `terminals` and `timeouts` [N]. An episode ends exactly where a
flag is set. Cutting after a fixed number of steps would mix steps of two episodes. When the recording stops inside an episode, its
last piece has no flag. That piece is marked as truncated, and `whole` leaves it out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from instar.components.dataset_prep.offline.episodes import Episodes, Flags, build
from instar.components.dataset_prep.offline.hdf5 import array, opened
from instar.components.dataset_prep.offline.tasks import Simulator, find_simulator
from instar.errors import ContractError

CONTINUITY = 1e-4


def read_d4rl(path: Path, env: str, tier: str, behaviour: str = "unknown") -> Episodes:
    """Return the episodes of a D4RL file. `env` is a Gymnasium id, because the file does not name its environment.

    Raises `ContractError` when the time-out flags were lost. There are three signs of that: `timeouts` is missing, an episode is
    longer than the time limit, or a step does not begin where the step before ended (if the file has `next_observations`). Raises
    `ArtifactError` for a damaged file.
    """
    where = str(path)
    with opened(path) as file:
        names = ("observations", "actions", "rewards", "terminals", "timeouts")
        values = {name: array(file, name, where) for name in names}
        following = array(file, "next_observations", where) if "next_observations" in list(file) else None
    total = len(values["rewards"])
    flat = {name: values[name].size for name in ("rewards", "terminals", "timeouts")}
    rows = {name: len(value) for name, value in values.items()} | flat
    for name, size in (rows if following is None else rows | {"next_observations": len(following)}).items():
        if size != total:
            raise _wrong(f"{total} steps, as many as rewards", f"{size}", f"{where}:{name}", "download the file again")
    terminal, timeout = (values[name].astype(np.bool_).reshape(total) for name in ("terminals", "timeouts"))
    lengths = cut(terminal, timeout)
    ends = np.cumsum(lengths) - 1
    simulator = find_simulator(env)
    episodes = build(
        env,
        action_low=simulator.action_low,
        action_high=simulator.action_high,
        lengths=lengths,
        observations=values["observations"],
        actions=values["actions"],
        rewards=values["rewards"].reshape(total),
        terminated=terminal[ends],
        truncated=~terminal[ends],
        tier=tier,
        behaviour=behaviour,
        final_observations=None if following is None else following[ends],
        where=where,
    )
    _check_flags_survived(episodes, simulator, following, where)
    return episodes


def cut(terminal: Flags, timeout: Flags) -> npt.NDArray[np.int64]:
    """Return the lengths of the episodes. Each ends at a flag. Steps after the last flag are one more episode."""
    ends = np.flatnonzero(terminal | timeout) + 1
    borders = np.unique(np.concatenate([[0], ends, [len(terminal)]]))
    return np.diff(borders).astype(np.int64)


def _check_flags_survived(
    episodes: Episodes, simulator: Simulator, following: npt.NDArray[np.float32] | None, where: str
) -> None:
    """Raise when an episode is longer than the time limit, or when a step does not begin where the step before ended."""
    limit = simulator.max_steps
    action = "use the version of the data set that has `timeouts`, because this file has lost time-out flags"
    long = np.flatnonzero(episodes.lengths > limit)
    if len(long):
        found = f"{int(episodes.lengths[long[0]])}"
        raise _wrong(f"at most {limit} steps", found, f"{where}:episode {long[0]}", action)
    if following is None or episodes.num_steps < 2:
        return
    jump = np.abs(episodes.observations[1:] - following[:-1]).max(axis=1)
    inside = np.ones(episodes.num_steps - 1, np.bool_)
    inside[episodes.offsets[1:-1] - 1] = False
    broken = np.flatnonzero(inside & (jump > CONTINUITY))
    if len(broken):
        step = int(broken[0])
        episode = int(np.searchsorted(episodes.offsets, step, side="right")) - 1
        at = f"{where}:episode {episode}, step {step - int(episodes.offsets[episode])}"
        raise _wrong("a step that begins where the step before ended", f"a jump of {jump[step]:.3g}", at, action)


def _wrong(expected: str, found: str, where: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where=where, action=action)
