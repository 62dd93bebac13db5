"""Recording: the learner's formulas by hand, its independence of global generators, and a whole small job."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.components.dataset_prep.offline.episodes import Episodes
from instar.components.dataset_prep.offline.minari import read_minari, write_minari
from instar.components.dataset_prep.offline.record import make_data
from instar.components.dataset_prep.offline.recording import Job, Run
from instar.components.dataset_prep.offline.simulate import Log, play
from instar.components.dataset_prep.offline.table import read_parquet
from instar.components.dataset_prep.offline.validate import validate
from instar.components.environments import open_environment
from instar.errors import ArtifactError, ConfigError, StorageError
from unit.offline.cases import same

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")

from instar.components.dataset_prep.offline.sac import Sac, SacConfig  # noqa: E402

TINY = {"width": 16, "batch": 16, "warmup": 100, "capacity": 1000}


def learner(seed: int = 0, **changes: Any) -> Sac:
    return Sac(3, 1, SacConfig(**({"width": 16, "batch": 16, "capacity": 50} | changes)), seed)


def fill(agent: Sac, steps: int, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        state, action = rng.normal(size=3), rng.uniform(-1, 1, 1).astype(np.float32)
        agent.remember(state, action, float(rng.normal()), bool(rng.random() < 0.1), rng.normal(size=3))


def test_log_probability_of_a_squashed_action_by_change_of_variables() -> None:
    agent = learner()
    states = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    action, log_prob = agent._sample(states)
    hidden = states
    for k in (0, 2):
        hidden = torch.relu(hidden @ agent.actor[k][0] + agent.actor[k + 1][0])
    mean, log_std = (hidden @ agent.actor[4][0] + agent.actor[5][0]).chunk(2, dim=1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
    expected = normal.log_prob(action.atanh()) - torch.log1p(-action.square())
    assert torch.allclose(log_prob, expected.sum(1, keepdim=True), atol=1e-4)


def test_acting_in_numpy_is_the_same_network() -> None:
    agent, state = learner(), np.array([0.3, -0.2, 1.0])
    hidden = torch.tensor(state, dtype=torch.float32)
    for k in (0, 2):
        hidden = torch.relu(hidden @ agent.actor[k][0] + agent.actor[k + 1][0])
    mean = (hidden @ agent.actor[4][0] + agent.actor[5][0])[0, :1]
    assert agent.act(state) == pytest.approx(math.tanh(mean.item()), abs=1e-6)
    drawn = [agent.act(state, np.random.default_rng(k)).item() for k in range(20)]
    assert len(set(drawn)) == 20 and max(map(abs, drawn)) <= 1.0


def test_the_memory_keeps_the_newest_and_what_was_put_in() -> None:
    agent = learner()
    for k in range(70):
        agent.remember(np.full(3, k), np.full(1, k / 70, np.float32), float(k), k % 2 == 0, np.full(3, k + 1))
    assert agent.size == 70 and sorted(agent.memory[:, 4].tolist()) == [float(k) for k in range(20, 70)]
    assert agent.memory[19].tolist() == [69.0] * 3 + [np.float32(69 / 70), 69.0, 0.0] + [70.0] * 3


def test_equal_seeds_learn_equal_weights_and_leave_global_generators_alone() -> None:
    before, legacy = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    weights = []
    for seed in (3, 3, 4):
        agent = learner(seed)
        fill(agent, 50)
        for _ in range(5):
            agent.update()
        weights.append([w.detach().clone() for w in agent.actor + agent.critic + agent.target])
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])
    assert torch.equal(before, torch.get_rng_state()) and legacy == str(np.random.get_state())  # noqa: NPY002


def test_averages_move_by_their_share() -> None:
    agent = learner(average=0.25)
    fill(agent, 50)
    old = [w.clone() for w in agent.target]
    agent.update()
    for before, after, weight in zip(old, agent.target, agent.critic, strict=True):
        assert torch.allclose(after, 0.75 * before + 0.25 * weight.detach(), atol=1e-6)


def test_a_bandit_is_solved() -> None:
    """Reward -(a - 0.5)^2 and every step terminal: values are rewards, so the most likely action has to approach 0.5."""
    agent, rng = learner(learning_rate=3e-3, capacity=2000, batch=64), np.random.default_rng(0)
    for _ in range(2000):
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        agent.remember(np.ones(3), action, -10 * float((action[0] - 0.5) ** 2), True, np.ones(3))
    for _ in range(600):
        agent.update()
    assert agent.act(np.ones(3)).item() == pytest.approx(0.5, abs=0.1)


def _log(endings: list[tuple[bool, bool]]) -> Episodes:
    log = Log("Pendulum-v1")
    for number, (terminated, truncated) in enumerate(endings):
        log.begin(number, "b", "t")
        log.add(np.full(3, number), np.zeros(1, np.float32), 1.0, False, False, np.full(3, number))
        log.add(np.full(3, number), np.zeros(1, np.float32), 2.0, terminated, truncated, np.full(3, 9))
    return log.episodes()


def test_the_log_holds_finished_episodes_only() -> None:
    episodes = _log([(True, False), (False, True), (True, True), (False, False)])
    assert episodes.lengths.tolist() == [2, 2, 2] and episodes.returns.tolist() == [3.0] * 3
    assert episodes.terminated.tolist() == [True, False, True] and episodes.truncated.tolist() == [False, True, False]
    with pytest.raises(ConfigError, match="one finished episode"):
        _log([(False, False)])


def test_played_episodes_are_reproducible_and_complete() -> None:
    def act(state: np.ndarray) -> np.ndarray:
        return np.array([-state[1]], np.float32)

    one = play("Pendulum-v1", act, range(5, 99), tier="t", behaviour="b", steps=401)
    assert one.lengths.tolist() == [200, 200, 200] and one.seeds.tolist() == [5, 6, 7]
    two = play("Pendulum-v1", act, [6], tier="t", behaviour="b")
    assert np.array_equal(two.observations, one.observations[200:400])


def test_a_simulator_leaves_no_log_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    assert open_environment("Hopper-v5").reset(seed=0)[0].shape == (11,)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_simulated_is_named() -> None:
    with pytest.raises(ConfigError, match="Nothing-v9"):
        open_environment("Nothing-v9")
    with pytest.raises(ConfigError, match="steps >= 1"):
        Job(env="Pendulum-v1", steps=0)


def test_a_small_job_leaves_valid_data_of_every_tier(tmp_path: Path) -> None:
    lines: list[str] = []
    job = Job(
        env="Pendulum-v1",
        steps=600,
        tier_steps=200,
        evaluate_every=200,
        evaluate_episodes=1,
        medium_return=-1e9,
        expert_return=1e9,
        sac=TINY,
    )
    content = make_data(job, tmp_path / "a", lines.append)
    assert json.loads((tmp_path / "a" / "data.json").read_text()) == json.loads(json.dumps(content))
    assert len(lines) == 3 and lines[0].startswith("Pendulum-v1 step 200/600, 1 episodes, return -")
    replay = read_parquet(tmp_path / "a" / "medium-replay.parquet")
    assert replay.num_steps == 200 and set(replay.tier.tolist()) == {"medium-replay"}
    for tier in content["tiers"]:
        episodes = read_parquet(tmp_path / "a" / f"{tier}.parquet")
        validate(episodes, max_steps=200)
        assert episodes.num_steps == content["tiers"][tier]["steps"]
        assert (tmp_path / "a" / "minari" / "pendulum" / f"{tier}-v0" / "data" / "main_data.hdf5").exists()
    minari = read_minari(tmp_path / "a" / "minari" / "pendulum" / "medium-v0")
    assert minari.final_observations is not None
    same(minari, read_parquet(tmp_path / "a" / "medium.parquet"), final=False)
    with pytest.raises(ArtifactError, match="name another folder"):
        make_data(job, tmp_path / "a", lines.append)
    again = make_data(job, tmp_path / "b", lines.append)
    assert again["tiers"] == content["tiers"]
    for tier in content["tiers"]:
        name = f"{tier}.parquet"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_job_that_never_gets_good_keeps_the_best_policy_as_medium(tmp_path: Path) -> None:
    job = Job(
        env="Pendulum-v1",
        steps=600,
        tier_steps=200,
        evaluate_every=200,
        evaluate_episodes=1,
        medium_return=1e9,
        sac=TINY,
    )
    content = make_data(job, tmp_path, lambda _: None)
    assert set(content["tiers"]) == {"random", "medium-replay", "medium"}
    assert content["tiers"]["medium-replay"]["steps"] == 600
    assert "none reached" in content["notes"]["medium"]


def test_a_job_that_could_record_nothing_is_refused_before_it_makes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 200 steps, the longest episode of Pendulum-v1; found 199"):
        make_data(Job(env="Pendulum-v1", steps=199), tmp_path / "a", lambda _: None)
    assert not (tmp_path / "a").exists()
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="seconds > 0"):
            Job(env="Pendulum-v1", seconds=seconds)


def test_a_place_that_takes_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ArtifactError, match="found a file"):
        make_data(Job(env="Pendulum-v1"), tmp_path / "file", lambda _: None)
    with pytest.raises(StorageError, match="ENOTDIR"):
        make_data(Job(env="Pendulum-v1", sac=TINY), tmp_path / "file" / "below", lambda _: None)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_disk_that_takes_no_more_leaves_no_half_of_a_tier(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; Python turns its signal into an error of the write."""
    run = Run(Job(env="Pendulum-v1", tier_steps=400), tmp_path, lambda _: None, None)  # type: ignore[arg-type]
    episodes = run.play(lambda _: np.zeros(1, np.float32), "random", "still")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match="EFBIG"):
            run.save("random", episodes)
        with pytest.raises(StorageError, match=r"EFBIG.*main_data\.hdf5"):
            write_minari(episodes, tmp_path / "minari", "pendulum/random-v0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["minari"] and run.tiers == {}
    assert [path for path in (tmp_path / "minari").rglob("*") if path.is_file()] == []
