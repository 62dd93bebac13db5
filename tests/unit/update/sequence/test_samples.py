"""Windows as tensors: shifted targets at the right steps, labels, blends; against hand-made cases and a plain loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.components.update.sequence.samples import Sample
from unit.update.sequence.scene import SCALE, STEPS, TASK, Scene, everywhere, make_scene


def _take(scene: Scene) -> Sample:
    _, batch, samples, _ = scene.open()
    return samples.take(torch.arange(batch.size))


def _counting(root: Path) -> Scene:
    """Two episodes of 6 and 2 steps whose states, rewards and actions count."""
    scene = make_scene(root, lengths=(6, 2))
    scene.episodes = [
        dataclasses.replace(
            e,
            states=np.stack([np.arange(t) + 10.0 * i, -np.arange(t)], axis=1),
            actions=np.full((t, 1), 1.0),
            rewards=np.arange(1.0, t + 1),
        )
        for i, (e, t) in enumerate(zip(scene.episodes, (6, 2), strict=True))
    ]
    return scene


def test_a_window_inside_an_episode_sees_the_step_behind_it(tmp_path: Path) -> None:
    s = _take(_counting(tmp_path).cut([(0, 1)]))
    assert s.mask.tolist() == [[True] * 4] and s.follows.tolist() == [[True] * 4]
    assert s.timesteps.tolist() == [[1, 2, 3, 4]] and s.states[0, :, 0].tolist() == [1, 2, 3, 4]
    assert s.next_states[0, :, 0].tolist() == [(x - 0.5) / 2.0 for x in (2, 3, 4, 5)]  # step 5 is outside of the window
    assert s.next_states[0, :, 1].tolist() == [(-x + 0.5) / 0.5 for x in (2, 3, 4, 5)]
    rtg = [20, 18, 15, 11, 6]  # 2+3+4+5+6, less one reward each
    assert s.returns_to_go.tolist() == [[r / SCALE for r in rtg[:4]]]
    assert s.next_returns.tolist() == [[r / SCALE for r in rtg[1:]]]


def test_a_window_at_the_end_is_padded_on_the_left_and_its_last_step_has_no_next(tmp_path: Path) -> None:
    s = _take(_counting(tmp_path).cut([(0, 4), (1, 1)]))
    assert s.mask.tolist() == [[False, False, True, True], [False, False, False, True]]
    assert s.follows.tolist() == [[False, False, True, False], [False] * 4]
    assert s.timesteps.tolist() == [[0, 0, 4, 5], [0, 0, 0, 1]]
    assert s.states[0, 2:, 0].tolist() == [4, 5] and s.states[1, 3].tolist() == [11, -1]
    assert s.next_states[0, 2, 0] == (5 - 0.5) / 2.0
    assert s.returns_to_go[0, 2:].tolist() == [11 / SCALE, 6 / SCALE] and s.next_returns[0, 2] == 6 / SCALE
    assert s.returns_to_go[1, 3] == 2 / SCALE


def test_an_episode_of_one_step(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, lengths=(1, 3)).cut([(0, 0)])
    s = _take(scene)
    assert s.mask.tolist() == [[False, False, False, True]] and not s.follows.any()
    assert s.returns_to_go[0, 3] == pytest.approx(scene.episodes[0].rewards[0] / SCALE)


def test_a_delayed_return_is_the_same_at_every_step(tmp_path: Path) -> None:
    s = _take(_counting(tmp_path).cut([(0, 1)], delayed=True))
    assert s.returns_to_go.tolist() == [[21 / SCALE] * 4] and s.next_returns.tolist() == [[21 / SCALE] * 4]


def test_the_target_blends_logged_and_proposed_actions_in_the_models_units(tmp_path: Path) -> None:
    scene = _counting(tmp_path).cut([(0, 1), (0, 4)], beta=0.25)
    scene.rollouts[0] = dataclasses.replace(scene.rollouts[0], actions=[2.0, -2.0, 0.0, 1.0])
    scene.rollouts[1] = dataclasses.replace(scene.rollouts[1], actions=[-1.0, 2.0])
    s = _take(scene)
    assert (s.logged[s.mask] == 0.5).all()  # 1 in a box of [-2, 2]
    own = 0.75 * 0.5
    assert s.target[0, :, 0].tolist() == [own + 0.25, own - 0.25, own, own + 0.125]
    assert s.target[1, 2:, 0].tolist() == [own - 0.125, own + 0.25]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_equals_a_plain_loop(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    scene = make_scene(tmp_path_factory.mktemp("scene"), lengths=lengths, seed=data.draw(st.integers(0, 99)))
    places = data.draw(st.lists(st.sampled_from(everywhere(scene)), min_size=1, max_size=6))
    delayed = data.draw(st.booleans())
    s = _take(scene.cut(places, delayed=delayed))
    for row, (number, start) in enumerate(places):
        e = scene.episodes[number]
        total = len(e.rewards)
        real = range(start, min(start + STEPS, total))
        pad = STEPS - len(real)
        assert s.mask[row].tolist() == [False] * pad + [True] * len(real)
        for slot, t in enumerate(real, start=pad):
            _check_step(s, row, slot, e, t, 0 if delayed else t, 0 if delayed else t + 1)


def _check_step(s: Sample, row: int, slot: int, e: Any, t: int, first: int, following: int) -> None:
    mean, std = np.asarray(TASK.state_mean), np.asarray(TASK.state_std)
    total = len(e.rewards)
    np.testing.assert_allclose(s.states[row, slot], e.states[t], rtol=1e-6)
    np.testing.assert_allclose(s.actions[row, slot], e.actions[t], rtol=1e-6)
    np.testing.assert_allclose(s.target[row, slot], e.actions[t] / 2.0, rtol=1e-6)
    np.testing.assert_allclose(s.returns_to_go[row, slot], e.rewards[first:].sum() / SCALE, rtol=1e-5, atol=1e-6)
    assert s.timesteps[row, slot] == t and bool(s.follows[row, slot]) == (t + 1 < total)
    if t + 1 < total:
        np.testing.assert_allclose(s.next_states[row, slot], (e.states[t + 1] - mean) / std, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(s.next_returns[row, slot], e.rewards[following:].sum() / SCALE, rtol=1e-5, atol=1e-6)
