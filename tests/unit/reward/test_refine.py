"""Labels of logged windows: returns-to-go, the weight of the past policy, and how far it is from what was logged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from instar.artifact import Policy, Rollouts, Scores, Tasks
from instar.components.reward import stage
from instar.components.reward.config import RefineConfig
from instar.contract import Metrics
from instar.errors import ContractError, RewardError
from instar.rows import RolloutRow, ScoreRow
from support import logged
from support.logged import PENDULUM, SMALL, context, episode, policy

TASK = dataclasses.replace(
    PENDULUM, action_dim=2, action_low=(-2.0, 0.0), action_high=(2.0, 1.0), return_scale=4.0
)  # halves of the box: 2 and 0.5
EPISODES = [
    episode("a", [1.0, 2.0, 4.0], task=TASK, actions=[0.0, 0.5, 1.0, 0.5, -1.0, 0.25]),
    episode("b", [8.0], task=TASK, actions=[2.0, 1.0]),
]


def window(number: int, name: str, offset: int, actions: list[float], **changes: object) -> RolloutRow:
    """Return the row of a window as the rollout writes it."""
    row = episode(name, [], arm="mixed")
    named = {"rollout_id": f"{number}/0", "group_id": str(number), "policy": "policy", "truncated": False}
    empty = {"observations": [], "rewards": [], "returns_to_go": []}
    return dataclasses.replace(row, offset=offset, actions=actions, **(named | empty | changes))  # type: ignore[arg-type]


class World:
    """Two logged episodes of 3 and 1 steps, a policy with windows of 4 steps, and whatever windows a test gives."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, logged.data(folder / "data", EPISODES)
        self.policy = policy(folder / "policy", SMALL, TASK)
        self.tasks = logged.tasks(folder / "tasks", [logged.slice_task("mixed/train/0", "a", 0, 3)])

    def run(
        self, rows: list[RolloutRow], config: RefineConfig | None = None, step: int = 0
    ) -> tuple[list[ScoreRow], Metrics]:
        rollouts, out = logged.data(self.folder / "rollouts", rows, "rollouts"), Scores(self.folder / "scores")
        ins = stage.Ins(tasks=self.tasks, rollouts=rollouts, policy=self.policy, data=self.data)
        ctx = context(self.folder, "reward", step)
        metrics = stage.STAGE(ins, stage.Outs(scores=out), config or RefineConfig(), ctx)
        return out.read(), metrics


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


ROWS = [
    window(0, "a", 1, [1.0, 1.0, 0.0, 0.25]),  # gaps 0, 1 and 0.5, 0 in units of half the box
    window(1, "b", 0, [2.0, 0.0]),  # 0, 2
    window(2, "a", 2, [-1.0, 0.25]),  # 0, 0
]


def test_labels_by_hand(world: World) -> None:
    """Returns-to-go 6, 8 and 4 over the scale of 4; shifts (0 + 1 + 0.5 + 0)/4, (0 + 2)/2 and 0."""
    scores, metrics = world.run(ROWS)
    assert [s.rollout_id for s in scores] == ["0/0", "1/0", "2/0"]
    assert [s.reward for s in scores] == [1.5, 2.0, 1.0]
    assert [s.components["shift"] for s in scores] == [0.375, 1.0, 0.0]
    assert all(s.correct is None and s.format_ok is None and s.reason == "" for s in scores)
    assert {(s.status, s.scorer) for s in scores} == {("scored", "return-to-go/1")}
    assert metrics == {
        "num_rollouts": 3.0,
        "beta": 0.0,
        "return_mean": pytest.approx(6.0),
        "shift_mean": pytest.approx((1.5 + 2.0 + 0.0) / 8),
    }


def test_delayed_pays_the_whole_return_at_every_step(world: World) -> None:
    scores, metrics = world.run(ROWS, RefineConfig(delayed=True))
    assert [s.reward for s in scores] == [7 / 4, 2.0, 7 / 4]
    assert [s.components["delayed"] for s in scores] == [1.0] * 3 and metrics["return_mean"] == pytest.approx(22 / 3)
    assert [s.components["delayed"] for s in world.run(ROWS)[0]] == [0.0] * 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RefineConfig(), [0.0, 0.0425, 0.06375, 0.425, 0.5]),  # 0.85 k / 40 at k = 2, 3, 20; capped at 40
        (RefineConfig(stages=6), [0.0, 0.85 / 3, 0.425, 0.5, 0.5]),
        (RefineConfig(schedule="fixed", beta_cap=0.25), [0.0, 0.25, 0.25, 0.25, 0.25]),
        (RefineConfig(schedule="none"), [0.0] * 5),
    ],
)
def test_the_schedule_reaches_every_label(world: World, config: RefineConfig, expected: list[float]) -> None:
    for step, beta in zip((0, 1, 2, 19, 39), expected, strict=True):
        scores, metrics = world.run(ROWS, config, step)
        assert metrics["beta"] == pytest.approx(beta)
        assert all(s.components["beta"] == metrics["beta"] for s in scores)


def test_windows_without_actions_have_no_shift(world: World) -> None:
    rows = [dataclasses.replace(row, actions=[]) for row in ROWS]
    scores, metrics = world.run(rows, RefineConfig(schedule="none"), step=9)
    assert all(s.components == {"beta": 0.0, "delayed": 0.0} for s in scores) and "shift_mean" not in metrics
    world.run(rows)  # the first iteration blends nothing, so it needs none
    with pytest.raises(ContractError, match=r"actions, whose weight in the targets is 0\.0425; found none"):
        world.run(rows, step=1)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (window(9, "a", 3, []), r"0\.\.2 of episode a; found 3"),
        (window(9, "z", 0, []), "an episode of the logged trajectories; found 'z'"),
        (window(9, "a", 1, [0.0, 0.0]), "2 actions of 2 numbers in every row"),
        (window(9, "a", 1, []), "2 actions of 2 numbers in every row"),
        (window(9, "b", 0, [0.0, 0.0, 0.0, 0.0]), "1 actions of 2 numbers in every row"),
        (window(9, "a", 0, [0.0] * 6, kind="text"), "kind 'continuous'; found kinds"),
    ],
)
def test_windows_that_do_not_fit_the_data_are_refused(world: World, row: RolloutRow, expected: str) -> None:
    with pytest.raises(ContractError, match=expected):
        world.run([*ROWS, row])


def test_data_that_contradict_themselves_are_refused(world: World) -> None:
    broken = [dataclasses.replace(EPISODES[0], returns_to_go=[7.0, 6.5, 4.0]), EPISODES[1]]
    world.data = logged.data(world.folder / "broken", broken, "broken")
    with pytest.raises(ContractError, match=r"returns_to_go of a, step 0"):
        world.run(ROWS)


def test_no_rollouts_no_data_and_a_text_policy_are_refused(world: World) -> None:
    with pytest.raises(RewardError, match="expected rollouts; found none"):
        world.run([])
    rollouts = logged.data(world.folder / "rows", ROWS)
    out = stage.Outs(scores=Scores(world.folder / "out"))
    ins = stage.Ins(tasks=Tasks(world.tasks.path), rollouts=rollouts, policy=world.policy)
    with pytest.raises(ContractError, match=r"logged trajectories; found none; at reward\.data"):
        stage.STAGE(ins, out, RefineConfig(), context(world.folder))
    text = Policy(world.folder / "text", "text")
    text.path.mkdir()
    text.write_json("config.json", {"model_type": "gpt2"})
    ins = dataclasses.replace(ins, policy=text, data=Rollouts(world.data.path))
    with pytest.raises(ContractError, match="a continuous-control policy; found model_type gpt2"):
        stage.STAGE(ins, out, RefineConfig(), context(world.folder))


def test_no_torch_is_needed() -> None:
    import subprocess
    import sys

    code = (
        "import sys, instar.components.reward.refine, instar.components.rollout.propose, "
        "instar.components.evaluate.simulate; print(sorted({'torch', 'transformers', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
