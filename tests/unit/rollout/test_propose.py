"""Windows of logged episodes and the acting policy's own actions on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from instar.artifact import Batch, Policy, Rollouts
from instar.components.continuous.build import load
from instar.components.continuous.config import Arch, BcArch, DecisionTransformerArch
from instar.components.policy_io import MODEL
from instar.components.rollout import gather, stage
from instar.components.rollout.config import ProposeConfig
from instar.components.rollout.propose import act, batches
from instar.components.trajectories import open_trajectories
from instar.contract import Context, Metrics, Shard
from instar.errors import ConfigError, ContractError, NumericsError
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, TaskRow
from support import logged
from support.logged import PENDULUM, SMALL, context, episode, policy, slice_task, slots

REWARDS = {"a": [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], "b": [-10.0, -20.0, -30.0], "c": [-7.0]}
SLICES = [
    slice_task("mixed/train/0", "a", 0, 3),
    slice_task("mixed/train/1", "a", 3, 6),
    slice_task("mixed/train/2", "b", 0, 3),
    slice_task("mixed/train/3", "c", 0, 1),
]
DRAWN = [f"mixed/train/{i}" for i in (2, 0, 1, 3, 1, 1, 0, 2, 0, 1, 3, 2)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep small products off a thread pool that tests beside this one use as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class World:
    """Three logged episodes of 6, 3 and 1 steps, their four slices, and a policy with windows of 4 steps."""

    def __init__(self, folder: Path, arch: Arch = SMALL) -> None:
        self.folder, self.rows = folder, [episode(name, rewards) for name, rewards in REWARDS.items()]
        self.data = logged.data(folder / "data", self.rows)
        self.tasks = logged.tasks(folder / "tasks", SLICES)
        self.policy = policy(folder / "policy", arch)

    def run(
        self, drawn: list[BatchRow], config: ProposeConfig | None = None, ctx: Context | None = None, name: str = "out"
    ) -> tuple[list[RolloutRow], Metrics, Rollouts]:
        batch, out = Batch(self.folder / f"{name}-batch"), Rollouts(self.folder / name)
        batch.path.mkdir(exist_ok=True)
        batch.write(drawn)
        ins = stage.Ins(policy=self.policy, tasks=self.tasks, batch=batch, data=self.data)
        ctx = ctx or context(self.folder)
        metrics = stage.STAGE(ins, stage.Outs(rollouts=out), config or ProposeConfig(), ctx)
        return out.read() if len(drawn) < 1000 else [], metrics, out


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_row_names_its_window_and_copies_nothing(world: World) -> None:
    drawn = slots(DRAWN)
    rows, metrics, _ = world.run(drawn)
    ctx = context(world.folder)
    for slot, row in zip(drawn, rows, strict=True):
        first, end = {"0": (0, 3), "1": (3, 6), "2": (0, 3), "3": (0, 1)}[slot.task_id[-1]]
        name = {"0": "a", "1": "a", "2": "b", "3": "c"}[slot.task_id[-1]]
        assert (row.rollout_id, row.group_id) == (f"{slot.group_id}/0", slot.group_id)
        assert row.kind == "continuous" and row.policy == "policy" and row.arm == "mixed" and not row.truncated
        assert row.task_id == name, "the episode, as in the row that logged it"
        assert row.seed == ctx.seed(slot.group_id)
        assert row.offset == first + row.seed % (end - first)
        assert len(row.actions) == min(4, len(REWARDS[name]) - row.offset)
        assert row.observations == row.rewards == row.returns_to_go == row.token_ids == []
        assert all(-2.0 <= action <= 2.0 for action in row.actions)
    assert metrics["num_rollouts"] == 12 and metrics["num_steps"] == sum(len(row.actions) for row in rows)
    assert metrics["short_share"] == sum(len(row.actions) < 4 for row in rows) / 12
    assert {row.offset for row in rows if row.task_id == "a"} > {0}, "starts differ between slots"


@pytest.mark.parametrize("arch", [SMALL, DecisionTransformerArch(width=16, window=4), BcArch(width=16, window=4)])
def test_actions_are_the_policys_on_the_logged_window(tmp_path: Path, arch: Arch) -> None:
    """Each window alone and unpadded: states, logged actions, returns-to-go over 200, timesteps counted in the episode."""
    world = World(tmp_path, arch)
    model = load(world.policy.path)
    by_name = {row.rollout_id: row for row in world.rows}
    for row in world.run(slots(DRAWN))[0]:
        source, steps = by_name[row.task_id], slice(row.offset, row.offset + len(row.actions))
        states = torch.tensor(source.observations).reshape(1, -1, 3)[:, steps]
        actions = torch.tensor(source.actions).reshape(1, -1, 1)[:, steps]
        togo = torch.tensor([source.returns_to_go])[:, steps] / 200
        times = torch.arange(row.offset, row.offset + len(row.actions))[None]
        with torch.no_grad():
            expected = 2 * model(states, actions, togo, times, torch.ones_like(times, dtype=torch.bool)).actions
        assert np.allclose(row.actions, expected.flatten().numpy(), atol=1e-5)


def test_the_shift_is_measured_in_units_of_half_the_box(world: World) -> None:
    by_name = {row.rollout_id: row for row in world.rows}
    rows, metrics, _ = world.run(slots(DRAWN))
    gaps = [
        abs(a - b) / 2
        for row in rows
        for a, b in zip(row.actions, by_name[row.task_id].actions[row.offset :], strict=False)
    ]
    assert metrics["shift_mean"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-6)


def test_a_delayed_return_is_the_same_at_every_step(world: World) -> None:
    """The policy is shown -21 / 200 all along episode a, so it acts as on rewards of 0 that end with -21."""
    delayed = {row.group_id: row for row in world.run(slots(DRAWN), ProposeConfig(delayed=True))[0]}
    plain = world.run(slots(DRAWN), name="plain")[0]
    paid = [
        dataclasses.replace(
            r, rewards=[0.0] * (len(r.rewards) - 1) + [sum(r.rewards)], returns_to_go=[sum(r.rewards)] * len(r.rewards)
        )
        for r in world.rows
    ]
    world.data = logged.data(world.folder / "late", paid, "late")
    late = world.run(slots(DRAWN), name="late-out")[0]
    assert [row.actions for row in late] == [delayed[row.group_id].actions for row in late]
    assert any(row.actions != delayed[row.group_id].actions for row in plain)


def test_without_acting_no_actions_are_recorded(world: World) -> None:
    rows, metrics, _ = world.run(slots(DRAWN), ProposeConfig(act=False))
    acting = world.run(slots(DRAWN), name="acting")[0]
    assert all(row.actions == [] for row in rows) and "shift_mean" not in metrics
    assert [row.offset for row in rows] == [row.offset for row in acting]


def test_the_same_step_gives_the_same_bytes_and_another_step_other_windows(world: World) -> None:
    one, two = world.run(slots(DRAWN))[2], world.run(slots(DRAWN), name="again")[2]
    assert (one.path / "rows.parquet").read_bytes() == (two.path / "rows.parquet").read_bytes()
    later = world.run(slots(DRAWN), ctx=context(world.folder, step=1), name="later")[0]
    assert [row.offset for row in later] != [row.offset for row in one.read()]


@pytest.mark.parametrize("arch", [SMALL, DecisionTransformerArch(width=16, window=4)])
def test_shards_and_the_size_of_a_pass_change_no_bit(tmp_path: Path, arch: Arch) -> None:
    world = World(tmp_path, arch)
    drawn = slots(DRAWN * 3)
    whole = world.run(drawn)[2]
    parts = [world.run(drawn, ctx=context(tmp_path, shard=Shard(i, 3)), name=f"part{i}")[2] for i in range(3)]
    assert [row.group_id for row in parts[1].iter()] == [slot.group_id for slot in drawn[1::3]]
    batch, joined = Batch(tmp_path / "out-batch"), Rollouts(tmp_path / "joined")
    ins = gather.Ins(batch=batch, parts=tuple(parts))
    gather.STAGE(ins, gather.Outs(rollouts=joined), gather.GatherConfig(), context(tmp_path, "gather"))
    assert joined.read() == whole.read()
    assert world.run(drawn, ProposeConfig(max_windows=5), name="few")[0] == whole.read()


def test_passes_are_filled_up_to_whole_rows_and_keep_padded_windows_apart() -> None:
    full = np.array([True, False, True, True, False] * 4)
    seen = [(rows.tolist(), count) for rows, count in batches(full, 7)]
    assert [count for _, count in seen] == [7, 5, 7, 1] and all(len(rows) == 8 for rows, _ in seen)
    new = [row for rows, count in seen for row in rows[:count]]
    assert new == [*np.flatnonzero(full), *np.flatnonzero(~full)]
    assert seen[3] == ([19] * 8, 1)


def test_no_slots_give_an_empty_table(world: World) -> None:
    rows, metrics, _ = world.run(slots(DRAWN)[:1], ctx=context(world.folder, shard=Shard(1, 2)))
    assert rows == [] and metrics == {"num_rollouts": 0.0, "num_steps": 0.0}


def test_a_large_batch_is_built_by_columns(tmp_path: Path) -> None:
    """20,000 windows, each with what it gets in a small batch."""
    world = World(tmp_path, BcArch(width=16, window=4))
    names = DRAWN * 1667
    drawn = slots(names[:20_000])
    beats: list[str] = []
    ctx = dataclasses.replace(context(world.folder), heartbeat=lambda unit, metrics: beats.append(unit))
    _, metrics, out = world.run(drawn, ctx=ctx)
    assert metrics["num_rollouts"] == 20_000 and out.table().num_rows == 20_000
    assert len(beats) >= 20_000 / 512 and beats[-1] == "20000 windows"
    small = world.run(drawn[:12], name="small")[2]
    assert out.table()[:12].equals(small.table())


def test_the_resident_model_is_not_changed(world: World) -> None:
    ctx = context(world.folder)
    world.run(slots(DRAWN), ctx=ctx)
    model = ctx.resident.get(MODEL, "policy")
    assert model is not None
    fresh = load(world.policy.path)
    assert not model.training and model.state_dict().keys() == fresh.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in fresh.state_dict().items())


BAD: list[tuple[TaskRow, str]] = [
    (slice_task("t", "a", 0, 9), "a start in 0..5 of episode a"),
    (slice_task("t", "z", 0, 2), "an episode of the logged trajectories; found 'z'"),
    (slice_task("t", "a", 2, 2), "and 0 <= s < e"),
    (slice_task("t", "a", -1, 2), "and 0 <= s < e"),
    (logged.task_row("t", "train", {"length": 3}), "a training slice"),
    (logged.task_row("t", "val", {"episode": "a", "start": 0, "end": 2}), "found split val"),
]


@pytest.mark.parametrize(("task", "expected"), BAD)
def test_a_task_that_is_no_segment_of_the_data_is_refused(world: World, task: TaskRow, expected: str) -> None:
    world.tasks = logged.tasks(world.folder / "bad", [task], "bad")
    drawn = slots(["t"] * 64)  # some slot reaches beyond the episode
    with pytest.raises(ContractError, match=expected):
        world.run(drawn)


def test_slots_that_do_not_belong_to_the_tasks_are_refused(world: World) -> None:
    with pytest.raises(ContractError, match="found no such task"):
        world.run(slots(["elsewhere"]))
    with pytest.raises(ContractError, match="found a task of arm mixed"):
        world.run(slots(["mixed/train/0"], arm="good"))
    with pytest.raises(ContractError, match="group_size 2"):
        world.run(slots(["mixed/train/0"], group_size=2))


def test_a_policy_or_data_of_another_kind_is_refused(world: World) -> None:
    wider = dataclasses.replace(PENDULUM, state_dim=4, state_mean=(0.0,) * 4, state_std=(1.0,) * 4)
    world.policy = policy(world.folder / "wider", task=wider, digest="wider")
    with pytest.raises(
        ContractError, match=r"states of dimension 4 and actions of dimension 1.*found dimensions 3 and 1"
    ):
        world.run(slots(DRAWN))
    ins = stage.Ins(policy=world.policy, tasks=world.tasks, batch=Batch(world.folder / "out-batch"))
    with pytest.raises(ContractError, match=r"logged trajectories; found none; at rollout\.data"):
        stage.STAGE(ins, stage.Outs(rollouts=Rollouts(world.folder / "x")), ProposeConfig(), context(world.folder))


def test_a_language_model_cannot_propose(world: World) -> None:
    from unit.rollout.conftest import build

    model = build("gpt2")
    model.save_pretrained(world.folder / "text")
    world.policy = Policy(world.folder / "text", "text")
    with pytest.raises(ContractError, match="a continuous-control policy; found GPT2LMHeadModel"):
        world.run(slots(DRAWN))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_named_and_absent_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"a CUDA device; found none; at rollout\.device"):
        world.run(slots(DRAWN), ProposeConfig(device="cuda"))


def test_weights_that_are_not_finite_are_noticed(world: World) -> None:
    model = load(world.policy.path)
    with torch.no_grad():
        model.heads.action.bias.fill_(float("nan"))  # type: ignore[union-attr]
    trajectories = open_trajectories(world.data, Resident(), "rollout")
    windows = trajectories.windows(np.array([0]), np.array([0]), 4)
    with pytest.raises(NumericsError, match="finite actions; found 4"):
        act(model, trajectories, windows, ProposeConfig(max_windows=8), context(world.folder))


def test_an_episode_longer_than_the_policys_table_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, dataclasses.replace(SMALL, max_timestep=5))
    with pytest.raises(ContractError, match=r"timesteps in 0\.\.4"):
        world.run(slots(["mixed/train/1"] * 8))
