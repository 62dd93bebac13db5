"""One row per episode, for the check of the data. `instar.quality` makes a suite from these annotations and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa

from instar import schema
from instar.components.dataset_prep.offline.episodes import Episodes, identity, per_episode
from instar.components.dataset_prep.offline.validate import TOLERANCE, action_excess, return_gap
from instar.schema import Column


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRow:
    """Facts about one recorded episode. The constraints say what holds for a usable data set."""

    episode_id: Annotated[str, Column("`<source>/<index>`", unique=True, min_length=1)]
    env: Annotated[str, Column("environment", min_length=1)]
    tier: Annotated[str, Column("quality of the data", min_length=1)]
    behaviour: Annotated[str, Column("what acted", min_length=1)]
    length: Annotated[int, Column("steps", ge=1)]
    non_finite: Annotated[int, Column("observations, actions and rewards that are NaN or infinite", ge=0, le=0)]
    episode_return: Annotated[float, Column("undiscounted return", finite=True)]
    action_excess: Annotated[
        float, Column("largest distance of an action from the box, <= 0 inside", le=0.0, finite=True)
    ]
    ends: Annotated[int, Column("terminal and time-out flags", ge=1, le=1)]
    return_gap: Annotated[
        float,
        Column(
            "largest relative |R_t - r_t - R_{t+1}|, R after the last step being 0", ge=0.0, le=TOLERANCE, finite=True
        ),
    ]
    overtime: Annotated[int, Column("steps beyond the time limit: a time-out flag is lost", ge=0, le=0)]
    foreign: Annotated[int, Column("1 when environment, dimensions or box differ from the first source", ge=0, le=0)]


def episode_table(sources: Episodes | Sequence[Episodes], max_steps: int | None = None) -> pa.Table:
    """Return the table of `EpisodeRow`s of one or several sources. It also has rows that break a constraint: the gate finds
    them."""
    parts = [sources] if isinstance(sources, Episodes) else list(sources)
    first = identity(parts[0])
    tables = [_part(number, part, first, max_steps) for number, part in enumerate(parts)]
    return pa.concat_tables(tables).combine_chunks()


def _part(number: int, part: Episodes, first: str, max_steps: int | None) -> pa.Table:
    n = part.num_episodes
    bad = sum(
        (~np.isfinite(v)).reshape(part.num_steps, -1).sum(axis=1)
        for v in (part.observations, part.actions, part.rewards)
    )
    excess, gap = action_excess(part), return_gap(part, part.returns_to_go)
    columns = {
        "episode_id": [f"{number}/{i}" for i in range(n)],
        "env": [part.env] * n,
        "tier": part.tier.tolist(),
        "behaviour": part.behaviour.tolist(),
        "length": part.lengths,
        "episode_return": part.returns,
        "non_finite": per_episode(np.add, np.asarray(bad, np.float64), part).astype(np.int64),
        "action_excess": per_episode(np.fmax, excess, part),
        "ends": part.terminated.astype(np.int64) + part.truncated,
        "return_gap": per_episode(np.maximum, gap, part),
        "overtime": np.maximum(part.lengths - (max_steps or np.iinfo(np.int64).max), 0),
        "foreign": np.full(n, int(identity(part) != first)),
    }
    declared = schema.arrow_schema(EpisodeRow)
    return pa.Table.from_arrays([pa.array(columns[f.name], type=f.type) for f in declared], schema=declared)
