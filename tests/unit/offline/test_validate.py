"""Planted faults: each is found by the direct check, with its place, and by the suite generated from `EpisodeRow`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from instar import quality, schema
from instar.components.dataset_prep.offline.episodes import Episodes, offsets, returns_to_go
from instar.components.dataset_prep.offline.rows import EpisodeRow, episode_table
from instar.components.dataset_prep.offline.table import to_table
from instar.components.dataset_prep.offline.validate import validate
from instar.errors import ContractError
from unit.offline.cases import hopper_like


def _with(episodes: Episodes, name: str, index: Any, value: Any) -> Episodes:
    array = getattr(episodes, name).copy()
    array[index] = value
    return dataclasses.replace(episodes, **{name: array})


def _merged(episodes: Episodes) -> Episodes:
    """Return the data set with the border between episodes 2 and 3 lost: a time-out flag that nobody wrote."""
    keep = [0, 1, 3]
    changes: dict[str, Any] = {"lengths": np.array([4, 1, 1007])}
    for name in ("terminated", "truncated", "tier", "behaviour", "seeds"):
        changes[name] = getattr(episodes, name)[keep]
    changes["returns_to_go"] = returns_to_go(episodes.rewards, changes["lengths"])
    return dataclasses.replace(episodes, final_observations=None, **changes)


def _with_empty(episodes: Episodes) -> Episodes:
    """Return the data set with an episode without steps in the middle."""
    index = [0, 1, 1, 2, 3]
    changes: dict[str, Any] = {n: getattr(episodes, n)[index] for n in ("terminated", "truncated", "tier", "behaviour")}
    return dataclasses.replace(
        episodes, lengths=np.array([4, 0, 1, 1000, 7]), seeds=np.arange(5), final_observations=None, **changes
    )


FAULTS: dict[str, tuple[Callable[[Episodes], Episodes], str, str]] = {
    "NaN observation": (
        lambda e: _with(e, "observations", (505, 3), np.nan),
        "observations of episode 2, step 500",
        "non_finite",
    ),
    "infinite reward": (lambda e: _with(e, "rewards", 4, np.inf), "rewards of episode 1, step 0", "non_finite"),
    "NaN action": (lambda e: _with(e, "actions", (1011, 0), np.nan), "actions of episode 3, step 6", "non_finite"),
    "action beyond the box": (
        lambda e: _with(e, "actions", (2, 1), -1.25),
        "actions of episode 0, step 2",
        "action_excess",
    ),
    "no end": (lambda e: _with(e, "truncated", 2, False), "episode 2, step 999", "ends"),
    "two ends": (lambda e: _with(e, "truncated", 0, True), "episode 0, step 3", "ends"),
    "wrong return-to-go": (
        lambda e: _with(e, "returns_to_go", 1010, e.returns_to_go[1010] + 0.01),
        "episode 3, step 4",
        "return_gap",
    ),
    "return-to-go that does not end at the last reward": (
        lambda e: _with(e, "returns_to_go", slice(5, 1005), e.returns_to_go[5:1005] + 3.0),
        "episode 2, step 999",
        "return_gap",
    ),
    "lost time-out": (_merged, "episode 2", "overtime"),
    "empty episode": (_with_empty, "episode 1", "length"),
}


def test_good_data_passes_both(hopper: Episodes, mixed: Episodes) -> None:
    validate(hopper, max_steps=1000)
    validate(mixed, max_steps=200)
    table = episode_table(hopper, max_steps=1000)
    schema.check(EpisodeRow, table, "episodes")
    assert table.column("length").to_pylist() == [4, 1, 1000, 7]
    assert np.allclose(table.column("episode_return").to_numpy(), hopper.returns)
    assert max(table.column("action_excess").to_pylist()) <= 0.0


def test_episodes_of_one_step_are_fine() -> None:
    episodes = hopper_like([1, 1, 1])
    validate(episodes, max_steps=1000)
    assert episodes.returns_to_go.tolist() == episodes.rewards.tolist()


def test_actions_on_the_edge_of_the_box_are_inside() -> None:
    episodes = hopper_like([3])
    box = np.array([0.1, 0.1, 0.1])  # not a single-precision number
    edge = dataclasses.replace(episodes, action_low=-box, action_high=box, actions=np.full((3, 3), np.float32(0.1)))
    validate(edge)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_planted_faults_are_named_with_their_place(hopper: Episodes, fault: str) -> None:
    plant, place, column = FAULTS[fault]
    bad = plant(hopper)
    with pytest.raises(ContractError, match=place):
        validate(bad, max_steps=1000)
    with pytest.raises(ContractError, match=f"episodes:{column}"):
        schema.check(EpisodeRow, episode_table(bad, max_steps=1000), "episodes")


def test_a_return_that_misses_a_rounding_is_no_fault(hopper: Episodes) -> None:
    validate(_with(hopper, "returns_to_go", 500, hopper.returns_to_go[500] * (1 + 1e-9)), max_steps=1000)


def test_lengths_that_do_not_sum_to_the_steps(hopper: Episodes) -> None:
    with pytest.raises(ContractError, match="1012 steps; found lengths that sum to 1011"):
        validate(_with(hopper, "lengths", 3, 6))


def test_no_episodes_at_all(hopper: Episodes) -> None:
    with pytest.raises(ContractError, match="at least one episode"):
        validate(hopper.select([]))


def test_a_table_is_not_made_of_episodes_without_an_end(hopper: Episodes) -> None:
    with pytest.raises(ContractError, match=r"one terminal or time-out flag; found 0; .*episode 2"):
        to_table(_with(hopper, "truncated", 2, False))


def test_sources_of_two_environments_are_foreign(hopper: Episodes, mixed: Episodes) -> None:
    table = episode_table([hopper, mixed])
    assert table.column("foreign").to_pylist() == [0] * 4 + [1] * 30
    with pytest.raises(ContractError, match="foreign"):
        schema.check(EpisodeRow, table, "episodes")


def test_the_generated_suite_finds_every_fault(hopper: Episodes) -> None:
    pytest.importorskip("great_expectations")
    report = quality.run_gate(EpisodeRow, episode_table(hopper, max_steps=1000))
    assert report["success"] and report["rows"] == 4
    bad = [plant(hopper) for plant, _, _ in FAULTS.values()]
    with pytest.raises(ContractError) as caught:
        quality.run_gate(EpisodeRow, episode_table(bad, max_steps=1000))
    columns = {part.split(":")[0] for part in caught.value.found.split("; ")}
    assert {column for _, _, column in FAULTS.values()} <= {c.removesuffix(quality.SUFFIX) for c in columns}


def test_summaries_do_not_straddle(hopper: Episodes) -> None:
    bad = _with(_with(hopper, "observations", (4, 0), np.nan), "actions", (5, 0), 1.5)
    table = episode_table(bad)
    assert table.column("non_finite").to_pylist() == [0, 1, 0, 0]
    assert table.column("action_excess").to_pylist()[2] == 0.5
    assert offsets([2, 3]).tolist() == [0, 2, 5]
