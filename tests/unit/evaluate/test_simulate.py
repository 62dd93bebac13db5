"""Return-conditioned episodes: returns-to-go, scores, lanes that come and go, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from instar.artifact import Evaluation, Policy, Tasks
from instar.components.continuous.acting import ActingState
from instar.components.continuous.build import load
from instar.components.continuous.config import Arch, BcArch, ContinuousTask, DecisionTransformerArch
from instar.components.dataset_prep.offline.pendulum import swing_up, tier
from instar.components.dataset_prep.offline.tasks import ENVIRONMENTS
from instar.components.evaluate import stage
from instar.components.evaluate.config import SimulateConfig
from instar.components.evaluate.episodes import Condition, Episode, run_episodes
from instar.components.evaluate.simulate import read_task
from instar.contract import Metrics
from instar.errors import ConfigError, ContractError, InstarError, NumericsError
from instar.rows import EvalRow, TaskRow
from support import logged
from support.logged import PENDULUM, SMALL, context, policy, task_row

COUNT = ContinuousTask(
    env="Count-v0",
    state_dim=2,
    action_dim=1,
    action_low=(-1.0,),
    action_high=(1.0,),
    state_mean=(0.0, 0.0),
    state_std=(1.0, 1.0),
    return_scale=2.0,
)
SHORT = dataclasses.replace(PENDULUM, env="ShortPendulum-v0")
REFERENCE = {"random": -1000.0, "expert": -200.0, "source": "chosen"}


class Count(gymnasium.Env[Any, Any]):
    """An episode of 1 + seed % 7 steps with reward 1 + action; odd seeds end by a time-out."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start counting."""
        del options
        assert seed is not None
        self.seed, self.left = seed, 1 + seed % 7
        return np.array([self.left, seed % 5], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count one down."""
        assert self.left > 0, "an episode that has ended is left alone"
        self.left -= 1
        reward = np.nan if self.seed == 13 else 1.0 + float(action[0])
        over, cut = self.left == 0, bool(self.seed % 2)
        return np.array([self.left, self.seed % 5], np.float32), reward, over and not cut, over and cut, {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep small products off a thread pool that tests beside this one use as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """Register a counting environment, and a pendulum of 24 steps."""
    pendulum = "gymnasium.envs.classic_control:PendulumEnv"
    gymnasium.register("Count-v0", lambda **_: Count(), max_episode_steps=50)
    gymnasium.register("ShortPendulum-v0", pendulum, max_episode_steps=24)
    yield
    for name in ("Count-v0", "ShortPendulum-v0"):
        del gymnasium.registry[name]


class Script:
    """An actor that follows a function of (row's states [B, S], timesteps [B]) and keeps what it was shown."""

    def __init__(self, choose: Callable[[Any, Any], Any]) -> None:
        self.choose, self.togo, self.timesteps = choose, list[Any](), list[Any]()

    def init_state(self, batch: int, *, window: bool = False) -> ActingState:
        del window
        return ActingState(kind="carried", tensors={"started": torch.zeros(batch, dtype=torch.bool)})

    def step(
        self, state: ActingState, returns_to_go: Any, states: Any, previous_actions: Any, timesteps: Any
    ) -> tuple[Any, ActingState]:
        del previous_actions
        self.togo.append(returns_to_go.numpy().copy())
        self.timesteps.append(timesteps.numpy().copy())
        return torch.from_numpy(self.choose(states.numpy(), timesteps.numpy())), state


def constant(value: float) -> Script:
    """Return an actor that always does the same."""
    return Script(lambda states, steps: np.full((len(steps), 1), value, np.float32))


def made(task: ContinuousTask, count: int) -> list[Any]:
    return [gymnasium.make(task.env, disable_env_checker=True) for _ in range(count)]


def play(
    actor: Any, task: ContinuousTask, seeds: list[int], lanes: int, target: float = 0.0, **how: Any
) -> list[Episode]:
    conditions = [Condition(target=target, seed=seed) for seed in seeds]
    return run_episodes(actor, task, conditions, made(task, lanes), **how)


@pytest.mark.parametrize("lanes", [1, 2, 5, 8, 9, 20])
def test_every_condition_gets_its_episode_in_order(lanes: int) -> None:
    """Lengths 1 to 7, more conditions than lanes and fewer: lanes are taken over and given up."""
    seeds = [6, 0, 3, 20, 7, 1, 5, 2, 12, 8, 14, 4]
    found = play(constant(0.5), COUNT, seeds, lanes)
    assert [e.length for e in found] == [1 + seed % 7 for seed in seeds]
    assert [e.total for e in found] == [1.5 * (1 + seed % 7) for seed in seeds]
    assert [e.truncated for e in found] == [bool(seed % 2) for seed in seeds]


def test_actions_are_clipped_to_the_box() -> None:
    assert play(constant(7.0), COUNT, [0, 2], 2) == [
        Episode(total=2.0, length=1, truncated=False),
        Episode(total=6.0, length=3, truncated=False),
    ]


def test_the_return_to_go_loses_reward_over_scale() -> None:
    """Target 10, scale 2, reward 1.5 a step: 5, 4.25, 3.5; a delayed return stays 5. Timesteps count from 0."""
    actor = constant(0.5)
    play(actor, COUNT, [2], 1, target=10.0)
    assert [float(row[0]) for row in actor.togo] == [5.0, 4.25, 3.5]
    assert [int(row[0]) for row in actor.timesteps] == [0, 1, 2]
    actor = constant(0.5)
    play(actor, COUNT, [2], 1, target=10.0, delayed=True)
    assert [float(row[0]) for row in actor.togo] == [5.0, 5.0, 5.0]


def test_a_logged_episode_played_again_ends_with_a_return_to_go_of_zero() -> None:
    """The logged returns-to-go are what the policy would have been shown, so training and acting agree on them."""
    episodes = tier(0.4, [11])
    actor = Script(lambda states, steps: episodes.actions[np.minimum(steps, 199)])
    found = play(actor, PENDULUM, [11], 1, target=float(episodes.returns[0]))
    shown = np.array([row[0] for row in actor.togo])
    assert found[0].length == 200 and found[0].truncated
    assert np.allclose(shown, episodes.returns_to_go / 200.0, atol=1e-4)
    assert shown[-1] * 200.0 - episodes.rewards[-1] == pytest.approx(0.0, abs=1e-2)


def test_the_references_are_the_anchors_of_the_score() -> None:
    """0 at random, 1 at the expert's return: exactly by arithmetic, and within the spread for the policies themselves."""
    task = task_row("t", "val", {"env": "Count-v0", "target_return": 1, "reset_seed": 0}, reference=REFERENCE)
    assigned = read_task(task, COUNT)
    assert [assigned.score(total) for total in (-1000.0, -600.0, -200.0, 200.0)] == [0.0, 0.5, 1.0, 1.5]
    generator, known = np.random.default_rng(0), ENVIRONMENTS["Pendulum-v1"]

    def random(states: Any, steps: Any) -> Any:
        del states
        return generator.uniform(-2, 2, (len(steps), 1)).astype(np.float32)

    def expert(states: Any, steps: Any) -> Any:
        del steps
        return swing_up(np.arctan2(states[:, 1], states[:, 0]), states[:, 2])[:, None].astype(np.float32)

    for choose, anchor in ((random, 0.0), (expert, 1.0)):
        totals = np.array([e.total for e in play(Script(choose), PENDULUM, list(range(40)), 40)])
        scores = (totals - known.random) / (known.expert - known.random)
        assert abs(scores.mean() - anchor) < 3 * scores.std() / np.sqrt(len(scores))


class World:
    """Evaluation tasks on the short pendulum: 9 episodes at -150 to judge on, 3 at -900 as probes."""

    def __init__(self, folder: Path, arch: Arch = SMALL, task: ContinuousTask = SHORT) -> None:
        self.folder, self.policy = folder, policy(folder / "policy", arch, task)
        judged = [self.condition(f"val/{seed}", "val", -150.0, seed) for seed in range(9)]
        probes = [self.condition(f"probe/{seed}", "probe", -900.0, seed) for seed in range(3)]
        self.rows = [*judged, *probes]

    @staticmethod
    def condition(name: str, split: str, target: float, seed: int, env: str = "ShortPendulum-v0") -> TaskRow:
        features = {"env": env, "target_return": target, "reset_seed": seed}
        return task_row(name, split, features, f"target {target:g}", REFERENCE)

    def run(self, name: str = "out", rows: list[TaskRow] | None = None, **config: Any) -> tuple[list[EvalRow], Metrics]:
        tasks: Tasks = logged.tasks(self.folder / f"{name}-tasks", rows or self.rows, name)
        out = Evaluation(self.folder / name)
        changes: dict[str, Any] = {"splits": ("val",)} | config
        settings = SimulateConfig(**changes)
        ins = stage.Ins(tasks=tasks, policy=self.policy, baseline=None)
        metrics = stage.STAGE(ins, stage.Outs(evaluation=out), settings, context(self.folder, "evaluate"))
        self.summary = out.read_json("summary.json")
        return out.read(), metrics


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_rows_summary_and_metrics_say_the_same(world: World) -> None:
    rows, metrics = world.run()
    assert [row.task_id for row in rows] == [task.task_id for task in world.rows]
    assert all(row.sample == -1 and row.length == 24 and row.truncated for row in rows)
    views = [json.loads(row.answer) for row in rows]
    assert [view["target"] for view in views] == [-150.0] * 9 + [-900.0] * 3
    assert [row.score for row in rows] == [(view["return"] + 1000) / 800 for view in views]
    judged, probes = rows[:9], rows[9:]
    assert metrics["val/normalised_score"] == pytest.approx(sum(row.score or 0.0 for row in judged) / 9)
    assert metrics["probe/normalised_score"] == pytest.approx(sum(row.score or 0.0 for row in probes) / 3)
    mean = np.mean([view["return"] for view in views[9:]])
    assert metrics["probe/target -900/return"] == pytest.approx(mean)
    arm = world.summary["probes"]["probe"]["arms"]["target -900"]
    assert (arm["target"], arm["num_tasks"]) == (-900.0, 3) and arm["low"] <= arm["score"] <= arm["high"]
    assert world.summary["splits"].keys() == {"val"}
    assert world.summary["splits"]["val"]["arms"]["target -150"]["target"] == -150.0


def test_probes_can_be_left_out_and_change_nothing_else(world: World) -> None:
    rows, _ = world.run()
    summary = world.summary
    for name, given, probes in (("without", world.rows, False), ("none", world.rows[:9], True)):
        without, metrics = world.run(name, given, probes=probes)
        assert without == rows[:9] and "probes" not in world.summary and "probe/normalised_score" not in metrics
        assert world.summary["splits"] == summary["splits"]


@pytest.mark.parametrize("arch", [SMALL, DecisionTransformerArch(width=16, window=4), BcArch(width=16, window=4)])
def test_order_and_number_of_environments_change_no_bit(tmp_path: Path, arch: Arch) -> None:
    world = World(tmp_path, arch)
    rows = {row.task_id: row for row in world.run()[0]}
    assert len({row.answer for row in rows.values()}) == 12, "different start states and targets"
    assert world.run("again")[0] == list(rows.values())
    for most in (1, 3, 10):
        shuffled = [world.rows[i] for i in np.random.default_rng(most).permutation(12)]
        found = world.run(f"of-{most}", shuffled, max_envs=most)[0]
        assert {row.task_id: row for row in found} == rows


def recorded(model: Any, task: ContinuousTask, seeds: list[int], window: bool) -> Any:
    """Return the actions [T, B, A] of episodes on lanes of their own."""
    taken: list[Any] = []

    class Spy:
        def init_state(self, batch: int, *, window: bool = False) -> ActingState:
            return model.init_state(batch, window=window)

        def step(self, *arguments: Any) -> Any:
            actions, state = model.step(*arguments)
            taken.append(actions.numpy()[: len(seeds)].copy())
            return actions, state

    play(Spy(), task, seeds, len(seeds), target=-150.0, window=window)
    return np.stack(taken)


@pytest.mark.parametrize("fusion", ["two_mixers", "shared_gate"])
def test_carried_state_equals_the_window_for_its_first_steps(tmp_path: Path, fusion: Any) -> None:
    """K = 4: until a step leaves the window both have seen the same; after that the carried state remembers more."""
    arch = dataclasses.replace(SMALL, fusion=fusion)
    model = load(policy(tmp_path / "policy", arch, SHORT).path)
    carried, again = (recorded(model, SHORT, [1, 2, 3], window) for window in (False, True))
    assert np.allclose(carried[:4], again[:4], atol=1e-5)
    assert np.abs(carried[4] - again[4]).max() > 1e-6


def test_the_window_can_be_chosen(world: World) -> None:
    carried, window = world.run()[0], world.run("window", context="window")[0]
    assert [row.length for row in window] == [24] * 12
    assert [row.answer for row in window] != [row.answer for row in carried]


def test_a_delayed_return_to_go_can_be_chosen(world: World) -> None:
    """The first action is the same, what follows the first reward is not."""
    plain, delayed = world.run()[0], world.run("delayed", delayed=True)[0]
    assert all(a.answer != b.answer for a, b in zip(plain, delayed, strict=True))


def test_the_target_reaches_the_policy(world: World) -> None:
    """Equal start states, other targets: other episodes. A target beyond all data is a target like any other."""
    rows = [world.condition(f"val/{target}", "val", target, 5) for target in (-150.0, -900.0, 1e6)]
    rows = [dataclasses.replace(row, arm="targets") for row in rows]
    found, _ = world.run(rows=rows, probes=False)
    assert len({json.loads(row.answer)["return"] for row in found}) == 3
    assert all(np.isfinite(row.score or 0.0) for row in found)


def test_there_are_signs_of_life() -> None:
    beats: list[int] = []
    play(constant(0.0), PENDULUM, [1, 2, 3], 2, heartbeat=beats.append)
    assert beats == [0, 0, 0, 2, 2, 2, 2, 3] and beats[-1] == 3


def other(**changes: Any) -> Callable[[World], None]:
    """Return what gives a world a policy for a changed task."""
    return lambda world: setattr(
        world, "policy", policy(world.folder / "other", task=dataclasses.replace(SHORT, **changes))
    )


def retasked(change: Callable[[TaskRow], TaskRow]) -> Callable[[World], None]:
    return lambda world: setattr(world, "rows", [change(world.rows[0]), *world.rows[1:]])


def text_policy(world: World) -> None:
    from unit.rollout.conftest import build

    build("gpt2").save_pretrained(world.folder / "text")
    world.policy = Policy(world.folder / "text", "text")


def rename(world: World, name: str) -> None:
    """Another environment in policy and tasks alike."""
    other(env=name)(world)
    world.rows = [
        dataclasses.replace(row, features=row.features.replace("ShortPendulum-v0", name)) for row in world.rows
    ]


def short_table(world: World) -> None:
    world.policy = policy(world.folder / "other", dataclasses.replace(SMALL, max_timestep=23), SHORT)


BAD: dict[str, tuple[Callable[[World], None], str]] = {
    "unknown": (lambda world: rename(world, "Nowhere-v0"), "an environment that gymnasium knows; found Environment"),
    "module": (lambda world: rename(world, "os:Nowhere-v0"), "which names a module"),
    "discrete": (lambda world: rename(world, "CartPole-v1"), "states that are a Box and actions that are a Box"),
    "states": (
        other(state_dim=4, state_mean=(0.0,) * 4, state_std=(1.0,) * 4),
        r"4 numbers per state and 1 per action, as in the policy; found states of shape \(3,\)",
    ),
    "box": (
        other(action_high=(1.0,)),
        r"actions between \[-2.0\] and \[1.0\], as in the policy; found actions between \[-2.0\]",
    ),
    "other task": (
        other(env="Pendulum-v1"),
        "environment Pendulum-v1, in which the policy acts; found ShortPendulum-v0",
    ),
    "no condition": (
        retasked(lambda row: dataclasses.replace(row, features='{"start": 1}')),
        "features .*target_return",
    ),
    "no reference": (retasked(lambda row: dataclasses.replace(row, reference="{}")), "reference .*random"),
    "equal references": (
        retasked(lambda row: dataclasses.replace(row, reference='{"random": 1, "expert": 1}')),
        "different returns of a random policy and of the expert; found 1 for both",
    ),
    "table": (short_table, "at most 23 steps, which is the policy's max_timestep; found a limit of 24 steps"),
    "text": (text_policy, "a continuous-control policy; found GPT2LMHeadModel"),
}


@pytest.mark.parametrize("fault", BAD)
def test_faults_are_named(world: World, fault: str) -> None:
    plant, expected = BAD[fault]
    plant(world)
    kind = ConfigError if fault in ("unknown", "module", "discrete") else ContractError
    with pytest.raises(kind, match=expected):
        world.run()


def test_numbers_that_are_not_finite_are_named() -> None:
    with pytest.raises(NumericsError, match="finite actions"):
        play(constant(float("nan")), COUNT, [3], 1)
    with pytest.raises(NumericsError, match="finite states and rewards"):
        play(constant(0.0), COUNT, [3, 13], 2)


def test_simulators_keep_their_warnings_to_themselves(tmp_path: Path) -> None:
    """Hopper-v5 ends by falling over, sees in double precision, and its package warns of deprecations."""
    pytest.importorskip("mujoco")
    hopper = ContinuousTask(
        env="Hopper-v5",
        state_dim=11,
        action_dim=3,
        action_low=(-1.0,) * 3,
        action_high=(1.0,) * 3,
        state_mean=(0.0,) * 11,
        state_std=(1.0,) * 11,
        return_scale=1000.0,
    )
    world = World(tmp_path, BcArch(width=16, window=4), hopper)
    rows = [world.condition(f"val/{seed}", "val", 3600.0, seed, "Hopper-v5") for seed in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = world.run(rows=rows, probes=False)
        again, _ = world.run("again", rows[::-1], probes=False, max_envs=1)
    assert again[::-1] == found
    assert all(0 < row.length < 1000 and not row.truncated for row in found)
    assert len({row.score for row in found}) == 4


def test_errors_say_what_to_do(world: World) -> None:
    short_table(world)
    with pytest.raises(InstarError) as caught:
        world.run()
    assert "max_timestep" in caught.value.action
