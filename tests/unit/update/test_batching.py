"""Micro-batches cover every rollout once within the budget, and no layout changes a log-probability."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.update import batching, forward
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.update_batch import UpdateBatch, ragged
from instar.errors import ConfigError
from instar.resident import Resident
from unit.update.world import World, joined, tiny_llama

LAYOUTS = ["none", "sequence", "prefix"]


def _data(lengths: list[tuple[int, int, int]]) -> UpdateBatch:
    """Return an experience of (prompt number, prompt length, action length)."""
    tokens, offsets, at, action_offset = [], [0], [], [0]
    for i, (prompt, p, t) in enumerate(lengths):
        tokens += [prompt] * p + [50 + i] * t
        at += range(offsets[-1] + p, offsets[-1] + p + t)
        offsets.append(offsets[-1] + p + t)
        action_offset.append(action_offset[-1] + t)
    n = len(lengths)
    zeros = np.zeros(n)
    return UpdateBatch(
        rollout_id=None,
        tokens=np.array(tokens, dtype=np.int64),
        token_offset=np.array(offsets),
        action_at=np.array(at, dtype=np.int64),
        action_offset=np.array(action_offset),
        behaviour=np.zeros(len(at)),
        group=np.arange(n),
        group_arm=np.zeros(n, dtype=np.int64),
        arms=("a",),
        group_size=np.ones(n, dtype=np.int64),
        kind=("text",) * n,
        policy=("p",) * n,
        scored=np.ones(n, dtype=np.bool_),
        dropped=np.zeros(n, dtype=np.bool_),
        reward=zeros,
        correct=zeros,
        truncated=np.zeros(n, dtype=np.bool_),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=25),
    st.integers(1, 80),
    st.sampled_from(LAYOUTS),
)
def test_every_action_token_once_within_the_budget(
    lengths: list[tuple[int, int, int]], budget: int, packing: str
) -> None:
    data = _data(lengths)
    micros = batching.micro_batches(data, np.arange(len(lengths)), budget, packing)
    rows = np.concatenate([m.rows.numpy() for m in micros])
    assert sorted(rows) == list(range(len(lengths)))
    tokens = np.concatenate([m.tokens.numpy() for m in micros])
    assert sorted(tokens) == list(range(len(data.behaviour)))
    longest = int(data.widths.max())
    for m in micros:
        assert m.input_ids.numel() <= max(budget, longest) or len(m.input_ids) == 1
        assert m.input_ids.shape[1] <= max(longest, min(budget, batching.ROW_WIDTH))
        # The token at each head position and the target are neighbours in the rollout.
        owner = np.searchsorted(data.action_offset, m.tokens.numpy(), side="right") - 1
        assert np.array_equal(m.rows.numpy()[m.sequence.numpy()], owner)
        before = data.tokens[data.action_at[m.tokens.numpy()] - 1]
        assert np.array_equal(m.input_ids.flatten()[m.head_at].numpy(), before)
        assert np.array_equal(m.targets.numpy(), data.tokens[data.action_at[m.tokens.numpy()]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6))
def test_a_token_sees_its_own_past_and_nothing_else(lengths: list[tuple[int, int, int]]) -> None:
    data = _data(lengths)
    for m in batching.micro_batches(data, np.arange(len(lengths)), 64, "prefix"):
        assert m.seen is not None and m.position_ids is not None
        mask = batching.mask(m.seen)
        width = m.input_ids.shape[1]
        for at, token in zip(m.head_at.tolist(), m.tokens.tolist(), strict=True):
            row = int(np.searchsorted(data.action_offset, token, side="right")) - 1
            position = int(data.action_at[token] - data.token_offset[row]) - 1
            seen = mask[at // width, 0, at % width].nonzero().flatten() + (at // width) * width
            own = data.tokens[data.token_offset[row] : data.token_offset[row] + position + 1]
            assert m.input_ids.flatten()[seen].tolist() == own.tolist()
            assert m.position_ids.flatten()[seen].tolist() == list(range(position + 1))


def test_shared_prompts_are_computed_once() -> None:
    data = _data([(1, 20, 5)] * 8)
    (micro,) = batching.micro_batches(data, np.arange(8), 2048, "prefix")
    assert micro.input_ids.shape == (1, 20 + 8 * 5)
    (plain,) = batching.micro_batches(data, np.arange(8), 2048, "none")
    assert batching.padding_ratio([plain], 8 * 25) == 1.0
    assert batching.padding_ratio([micro], 8 * 25) == 60 / 200


def test_prompts_are_shared_where_it_pays() -> None:
    """Short answers to long prompts, against long answers to short prompts and prompts that nobody shares."""
    every = np.arange(64)
    assert batching.choose(_data([(i // 8, 34, 6) for i in range(64)]), every, 2048) == "prefix"
    assert batching.choose(_data([(i // 8, 34, 400) for i in range(64)]), every, 2048) == "none"
    assert batching.choose(_data([(i, 34, 6) for i in range(64)]), every, 2048) == "none"
    assert batching.choose(_data([]), np.arange(0), 2048) == "none"


def test_pieces_are_as_wide_as_pays() -> None:
    """8 answers of 100 behind a prompt of 100: best at w = 100 + sqrt(100 * 1250) = 453.6, so 4 and 4."""
    data = _data([(1, 100, 100)] * 8)
    assert [len(piece) for piece in batching.share(data, np.arange(8), 4096)] == [4, 4]
    assert batching.shapes(data, np.arange(8), 4096, "prefix") == [(2, 500)]
    # 800 positions of 200 against 1000 of 500.
    assert batching.cost([(8, 200)]) == pytest.approx(1600 * (1 + 200 / 1150))
    assert batching.cost([(2, 500)]) == pytest.approx(1000 * (1 + 500 / 1150))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=25),
    st.integers(1, 80),
    st.sampled_from(LAYOUTS),
)
def test_shapes_are_those_of_the_built_passes(lengths: list[tuple[int, int, int]], budget: int, packing: str) -> None:
    data = _data(lengths)
    every = np.arange(len(lengths))
    built = [tuple(m.input_ids.shape) for m in batching.micro_batches(data, every, budget, packing)]
    assert batching.shapes(data, every, budget, packing) == built


def test_sorting_by_length_pads_little() -> None:
    rng = np.random.default_rng(0)
    data = _data([(i, 20, int(t)) for i, t in enumerate(rng.integers(4, 60, 512))])
    micros = batching.micro_batches(data, np.arange(512), 2048, "none")
    unsorted = 512 * int(data.widths.max()) / int(data.widths.sum())
    assert batching.padding_ratio(micros, int(data.widths.sum())) < 1.06 < unsorted


@pytest.mark.parametrize("packing", LAYOUTS)
@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_log_probabilities_do_not_depend_on_the_layout(world: World, packing: str, budget: int) -> None:
    model, data = tiny_llama(dtype=torch.float64), joined(world)
    config = PolicyGradientConfig(dtype="float64")
    logp = torch.full((len(data.behaviour),), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        for micro in batching.micro_batches(data, np.arange(16), budget, packing):
            logp[micro.tokens] = forward.score(model, micro, config).logp
    # The recorded log-probabilities came from one sequence at a time, in float32.
    torch.testing.assert_close(logp, torch.tensor(data.behaviour), rtol=1e-4, atol=1e-4)
    again = torch.cat([forward._alone(model, data, row) for row in range(16)])
    torch.testing.assert_close(logp, again, rtol=1e-10, atol=1e-10)


def test_a_model_that_scales_its_logits_is_refused(world: World) -> None:
    model, data = tiny_llama(), joined(world)
    plain = PolicyGradientConfig(packing="none")
    forward.check_forward(model, data, np.arange(3), plain, Resident())
    original = model.forward
    model.forward = lambda *args, **kwargs: _scaled(original(*args, **kwargs))
    with pytest.raises(ConfigError, match="scales, caps or masks"):
        forward.check_forward(model, data, np.arange(3), plain, Resident())


def _scaled(out: object) -> object:
    out.logits = out.logits * 0.5  # type: ignore[attr-defined]
    return out


def test_a_model_that_ignores_the_mask_is_refused(world: World) -> None:
    model, data = tiny_llama(), joined(world)
    original = model.model.forward
    model.model.forward = lambda *args, attention_mask=None, **kwargs: original(*args, **kwargs)
    with pytest.raises(ConfigError, match="packing=prefix"):
        forward.check_forward(model, data, np.arange(3), PolicyGradientConfig(packing="prefix"), Resident())
    forward.check_forward(model, data, np.arange(3), PolicyGradientConfig(packing="none"), Resident())


def test_passes_wait_on_the_host_without_their_masks() -> None:
    """Masks have W^2 entries a row; what waits is a few numbers a position. `meta` stands for the device."""
    data = _data([(i // 4, 40, 10) for i in range(64)])
    micros = batching.micro_batches(data, np.arange(64), 512, "prefix")
    assert len(micros) == 3
    for micro in micros:
        tensors = [v for v in (getattr(micro, f.name) for f in dataclasses.fields(micro)) if v is not None]
        positions = micro.input_ids.numel()
        assert {t.device.type for t in tensors} == {"cpu"} and max(t.numel() for t in tensors) <= 3 * positions
        there = micro.to("meta")
        assert {getattr(there, f.name).device.type for f in dataclasses.fields(there)} == {"meta"}
        rows, width = there.input_ids.shape
        assert there.seen is not None and batching.mask(there.seen).shape == (rows, 1, width, width)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_one_pass_at_a_time_is_on_the_device(world: World, monkeypatch: pytest.MonkeyPatch, minibatches: int) -> None:
    """And the one before it, until it is let go."""
    there: list[weakref.ref[batching.Micro]] = []
    most = []

    def to(micro: batching.Micro, device: str) -> batching.Micro:
        assert device == "cpu"
        moved = dataclasses.replace(micro)
        there.append(weakref.ref(moved))
        most.append(sum(ref() is not None for ref in there))
        return moved

    monkeypatch.setattr(batching.Micro, "to", to)
    world.scored(lambda row: float(row.rollout_id[-1] in "02"))  # a signal in every group
    config = PolicyGradientConfig(lr=1e-3, packing="prefix", micro_batch_tokens=12, minibatches=minibatches)
    _, metrics = world.update(config)
    assert metrics["updates"] == minibatches and len(most) > 4
    assert max(most) <= 2


def test_ragged() -> None:
    assert ragged(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
