"""Dataset preparation of offline recipes: from each kind of source to tasks, data, verdict and a policy that fits them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.artifact import Policy, Rollouts, Tasks
from instar.components.catalog import DATASET_PREP
from instar.components.continuous.config import BcArch, DecisionMambaArch
from instar.components.dataset_prep.offline import pendulum
from instar.components.dataset_prep.offline.config import (
    D4rlSource,
    EpisodesSource,
    MinariSource,
    NoiseConfig,
    OfflineConfig,
    PendulumSource,
    Source,
)
from instar.components.dataset_prep.offline.minari import write_minari
from instar.components.dataset_prep.offline.table import from_table, write_parquet
from instar.contract import Context
from instar.errors import ArtifactError, ConfigError, ContractError
from instar.pipelines.execute import execute

ARCH = DecisionMambaArch(width=8, layers=1, state_size=4, window=4)


def config(source: Source, **changes: Any) -> OfflineConfig:
    """Return a small configuration over `source`."""
    few = {"arch": ARCH, "val_episodes": 3, "test_episodes": 3, "probe_episodes": 2}
    return OfflineConfig(source=source, **(few | changes))


def prepare(folder: Path, chosen: OfflineConfig) -> Any:
    """Run the stage; return its result."""
    ctx = Context(evolution="e", step=0, stage=DATASET_PREP.name, scratch=folder)
    return execute(DATASET_PREP, {}, chosen, ctx, folder / "out")


def stored(policy: Policy) -> dict[str, Any]:
    found: dict[str, Any] = policy.read_json("config.json")
    return found


def test_pendulum_tiers_become_arms_segments_and_start_states(tmp_path: Path) -> None:
    made = prepare(tmp_path, config(PendulumSource(rates=(1.0, 0.4), episodes=2)))
    tasks = made.outs.tasks.read()
    data: Rollouts = made.outs.data
    train = [json.loads(t.features) for t in tasks if t.split == "train"]
    assert sorted({t.arm for t in tasks if t.split == "train"}) == ["eps-0.4", "eps-1"]
    assert len(train) == 4 * 200 // 4 and sum(f["end"] - f["start"] for f in train) == 4 * 200
    episodes = {row["rollout_id"]: len(row["rewards"]) for row in data.table().to_pylist()}
    assert {f["episode"] for f in train} == set(episodes) and set(episodes.values()) == {200}
    counts = {split: sum(t.split == split for t in tasks) for split in ("val", "id", "probe")}
    assert counts == {"val": 3, "id": 3, "probe": 2}
    starts = [json.loads(t.features)["reset_seed"] for t in tasks if t.split != "train"]
    assert len(set(starts)) == len(starts), "pools share a start state"
    verdict = made.outs.quality.read_json("quality.json")
    assert verdict["success"] and {e["column"] for e in verdict["episodes"]["expectations"]} >= {
        "non_finite",
        "action_excess",
        "ends",
        "return_gap",
    }
    task = stored(made.outs.policy)["task"]
    states = from_table(data.table()).observations.astype(np.float64)
    assert task["state_mean"] == pytest.approx(states.mean(axis=0)) and task["return_scale"] == 200.0


def test_equal_keys_give_equal_bytes(tmp_path: Path) -> None:
    chosen = config(PendulumSource(rates=(1.0,), episodes=2))
    digests = [
        {name: getattr(prepare(tmp_path / n, chosen).outs, name).digest for name in ("tasks", "data", "policy")}
        for n in ("a", "b")
    ]
    assert digests[0] == digests[1]


def test_noise_changes_labels_of_a_share_and_nothing_else(tmp_path: Path) -> None:
    plain = config(PendulumSource(rates=(1.0,), episodes=2))
    noisy = dataclasses.replace(plain, noise=NoiseConfig(share=0.25, std=1.0))
    a, b = (from_table(prepare(tmp_path / n, c).outs.data.table()) for n, c in (("a", plain), ("b", noisy)))
    changed = (a.actions != b.actions).any(axis=1)
    assert changed.sum() == pytest.approx(0.25 * a.num_steps, rel=0.02)
    assert np.array_equal(a.observations, b.observations) and np.array_equal(a.rewards, b.rewards)
    assert np.abs(b.actions).max() <= 2.0


def test_recorded_tiers_are_read_by_name_and_by_quantile(tmp_path: Path) -> None:
    for rate in (1.0, 0.4):
        write_parquet(pendulum.tier(rate, [1, 2], f"eps-{rate:g}"), tmp_path / f"eps-{rate:g}.parquet")
    one = prepare(tmp_path / "one", config(EpisodesSource(path=str(tmp_path), tiers=("eps-0.4",)))).outs.data
    assert set(one.table().column("arm").to_pylist()) == {"eps-0.4"}
    both = prepare(tmp_path / "both", config(EpisodesSource(path=str(tmp_path)), buckets=2)).outs
    rows = both.data.table().to_pylist()
    means = {arm: np.mean([sum(r["rewards"]) for r in rows if r["arm"] == arm]) for arm in ("q0", "q1")}
    assert means["q0"] < means["q1"]
    with pytest.raises(ConfigError, match=r"eps-0\.4, eps-1"):
        prepare(tmp_path / "none", config(EpisodesSource(path=str(tmp_path), tiers=("expert",))))


def test_a_minari_data_set_trains_bc_as_well(tmp_path: Path) -> None:
    folder = write_minari(pendulum.tier(0.4, [1, 2], "medium"), tmp_path / "minari", "pendulum/medium-v0")
    made = prepare(tmp_path, config(MinariSource(path=str(folder.parent)), arch=BcArch(width=8, window=4)))
    assert stored(made.outs.policy)["model_type"] == "instar_bc" and made.metrics["num_steps"] == 400


def hopper(path: Path, **changes: Any) -> Path:
    """Write a file of D4RL's layout: episodes of 1 and 5 steps of Hopper."""
    import h5py

    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "observations": rng.normal(size=(6, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(6, 3)).astype(np.float32),
        "rewards": np.arange(6, dtype=np.float32),
        "terminals": np.array([1, 0, 0, 0, 0, 1], bool),
        "timeouts": np.zeros(6, bool),
    }
    with h5py.File(path, "w") as file:
        for name, values in (columns | changes).items():
            file[name] = values
    return path


def test_a_d4rl_task_brings_its_published_settings(tmp_path: Path) -> None:
    source = D4rlSource(path=str(hopper(tmp_path / "h.hdf5")), task="hopper-medium")
    made = prepare(tmp_path, config(source, arch=dataclasses.replace(ARCH, encoder="auto", head="auto")))
    found = stored(made.outs.policy)
    assert (found["arch"]["encoder"], found["arch"]["head"], found["task"]["return_scale"]) == (
        "linear",
        "linear",
        1000.0,
    )
    tasks: Tasks = made.outs.tasks
    asked = {json.loads(t.features)["target_return"] for t in tasks.read() if t.split == "id"}
    reference = json.loads(next(t.reference for t in tasks.read() if t.split == "id"))
    assert asked == {3600.0} and (reference["random"], reference["expert"]) == (-20.272305, 3234.3)
    assert reference["source"] == "Hopper-v5, D4RL-normalised"
    lengths = [len(row["rewards"]) for row in made.outs.data.table().to_pylist()]
    assert lengths == [1, 5], "an episode of one step is kept, and nothing straddles"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"observations": np.full((6, 11), np.nan, np.float32)}, ContractError, "NaN|finite"),
        ({"actions": np.full((6, 3), 1.5, np.float32)}, ContractError, "action"),
        ({"timeouts": np.zeros((5,), bool)}, ContractError, "timeouts"),
        ({"observations": np.zeros((6, 17), np.float32)}, ContractError, "11"),
    ],
    ids=["nan", "outside-the-box", "lengths-differ", "another-environment"],
)
def test_bad_data_is_refused_and_nothing_is_left(
    changes: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    source = D4rlSource(path=str(hopper(tmp_path / "h.hdf5", **changes)), task="hopper-medium")
    with pytest.raises(error, match=says):
        prepare(tmp_path, config(source))
    assert not list((tmp_path / "out").glob("*/rows.parquet"))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "eps.parquet"
    write_parquet(pendulum.tier(1.0, [1], "eps"), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"eps\.parquet"):
        prepare(tmp_path, config(EpisodesSource(path=str(path))))
