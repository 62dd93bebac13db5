"""One process and two give the same update: losses, gradients, weights, state and metrics; gloo on the CPU."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from instar.artifact import Policy, TrainerState
from instar.components.policy_io import load_model, row_name
from instar.components.update import memory
from instar.components.update.batching import shapes
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.parallel import budget, gang, improve, launch
from instar.components.update.parallel.ranks import Ranks
from instar.components.update.stage import Outs
from instar.contract import PERF, Context
from instar.errors import ConfigError, LedgerError
from instar.resident import Resident
from support import parallel_cases
from support.parallel_cases import CASES, SEGMENTS, STEPS, exact_norms, job, outputs, search_path
from unit.update.world import World, joined, weights

Update = tuple[Outs, dict[str, float]]


@dataclass
class Pair:
    """The same updates alone and together, and the worlds they started from."""

    alone: dict[str, Update]
    together: dict[str, Update]
    worlds: dict[str, World]
    segments: Path


NIGHTLY = ("minibatches", "kl-in-reward", "kl-of-itself", "checkpointing", "sequence-ratio")
"""Cases whose passes are split as those of others: `kl-in-loss` has minibatches, a segment has checkpoints."""


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Every case that runs now, by one process and by two; two processes do them all in one run."""
    root = tmp_path_factory.mktemp("parallel")
    here = [item for item in request.session.items if item.path == request.path]
    at_night = any(item.get_closest_marker("slow") for item in here)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", exact_norms())
        patch.setenv("PYTHONPATH", search_path())
        worlds: dict[str, World] = {}
        jobs, alone = {}, {}
        for name, case in CASES.items():
            if name in NIGHTLY and not at_night:
                continue
            (root / name).mkdir()
            worlds[name] = parallel_cases.world(root / name, case)
            jobs[name] = job(worlds[name], case.config(), root / name / "together")
            alone[name] = worlds[name].update(case.config())
        for name in ("three-groups", "adapters", "critic"):
            later = parallel_cases.world(root / name / "later", CASES[name])
            later.advance(alone[name][0])
            worlds[f"{name}, continued"] = later
            jobs[f"{name}, continued"] = job(later, CASES[name].config(), root / name / "later" / "together")
            alone[f"{name}, continued"] = later.update(CASES[name].config())
        segments = {
            f"segment, {name}": parallel_cases.segment(root / "segments" / name, case)
            for name, case in SEGMENTS.items()
        }
        (root / "job.json").write_text(json.dumps({**jobs, **segments}))
        context = worlds["float32"].context()
        gang.run(root, 2, 60.0, context, "support.parallel_cases")
        together = {
            name: (outputs(Path(jobs[name]["scratch"])), json.loads((root / f"{name}.metrics.json").read_text()))
            for name in jobs
        }
        yield Pair(alone, together, worlds, root / "segments")


NAMES = [
    *(pytest.param(name, marks=pytest.mark.slow) if name in NIGHTLY else name for name in CASES),
    "three-groups, continued",
    "adapters, continued",
    "critic, continued",
]
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.05}


@pytest.mark.parametrize("name", NAMES)
def test_losses_norms_and_metrics_are_the_same(pair: Pair, name: str) -> None:
    expected, found = (
        {k: v for k, v in side[name][1].items() if not k.startswith(PERF) and k != "padding_ratio"}
        for side in (pair.alone, pair.together)
    )
    assert found.keys() == expected.keys()
    close = TOLERANCE.get(name, 1e-9)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=close, abs=close), key
    assert expected["updates"] > 0 or name == "nothing-to-learn"


@pytest.mark.parametrize("name", NAMES)
def test_weights_moments_and_statistics_are_the_same(pair: Pair, name: str) -> None:
    alone, together = pair.alone[name][0], pair.together[name][0]
    assert together.stats.read() == alone.stats.read()
    exact = name not in TOLERANCE
    for folder in ("policy", "trainer"):
        files = sorted(f.name for f in getattr(alone, folder).path.iterdir())
        assert sorted(f.name for f in getattr(together, folder).path.iterdir()) == files
    if exact:
        _same(weights(together.policy), weights(alone.policy), 1e-9)
    _same(_state(together.trainer), _state(alone.trainer), TOLERANCE.get(name, 1e-9))
    ours, theirs = (o.trainer.read_json("trainer.json") for o in (together, alone))
    different = {key for key in theirs if ours[key] != theirs[key]}
    assert different <= {"fingerprint"}, different


def test_a_policy_that_learns_nothing_keeps_its_bytes(pair: Pair) -> None:
    world, (outs, _) = pair.worlds["nothing-to-learn"], pair.together["nothing-to-learn"]
    for file in world.policy.path.iterdir():
        assert (outs.policy.path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["three-groups", "adapters", "critic"])
def test_what_two_processes_wrote_continues_on_one(pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", exact_norms())
    later = pair.worlds[f"{name}, continued"]
    later.policy = Policy(pair.together[name][0].policy.path, later.policy.digest)
    later.trainer = pair.together[name][0].trainer
    # One process and two may differ by rounding. The rollouts are those of the policy that the two wrote.
    later.rollouts = [dataclasses.replace(row, policy=row_name(later.policy)) for row in later.rollouts]
    outs, metrics = later.update(CASES[name].config())
    expected, known = pair.alone[f"{name}, continued"]
    assert metrics["grad_norm"] == pytest.approx(known["grad_norm"], rel=1e-6)
    _same(_state(outs.trainer), _state(expected.trainer), 1e-6)
    steps = [o.trainer.read_json("trainer.json")["optimizer_steps"] for o in (pair.alone[name][0], outs)]
    assert steps[1] > steps[0] > 0


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", SEGMENTS)
def test_steps_that_are_held_in_memory_write_the_bytes_of_steps_through_files(pair: Pair, name: str) -> None:
    """Every policy whole, because whoever samples is another process; of the optimiser's state nothing before the last step."""
    held, files = (pair.segments / name / way for way in ("held", "files"))
    for step in range(STEPS):
        assert _bytes(held / f"step{step}" / "policy") == _bytes(files / f"step{step}" / "policy")
    last = f"step{STEPS - 1}"
    assert _bytes(held / last / "trainer") == _bytes(files / last / "trainer")
    assert _bytes(held / "step0" / "policy") != _bytes(held / last / "policy")
    assert sorted(f.name for f in (held / "step0" / "trainer").iterdir()) == ["optimizer.safetensors", "trainer.json"]
    assert not load_file(held / "step0" / "trainer" / "optimizer.safetensors")
    record, other = (json.loads((way / "step0" / "trainer" / "trainer.json").read_text()) for way in (held, files))
    assert record.pop("resident") is True and record == other


def _state(trainer: TrainerState) -> dict[str, Any]:
    found: dict[str, Any] = load_file(trainer.path / "optimizer.safetensors")
    return found


def _same(ours: dict[str, Any], theirs: dict[str, Any], tolerance: float) -> None:
    """Largest difference within `tolerance` of the tensor's largest entry."""
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        gap = float((ours[key].double() - value.double()).abs().max())
        assert gap <= tolerance * max(float(value.abs().max()), 1e-6), (key, gap, torch.linalg.norm(value))


def test_the_stage_starts_its_processes_once_a_segment_and_hears_from_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    units: list[str] = []
    world.heartbeat = lambda unit, metrics: units.append(unit)
    config = PolicyGradientConfig(lr=1e-3, processes=2, collective_timeout_s=60.0)
    resident = Resident()
    load_model(world.policy, world.context(resident))
    _, expected = world.update(dataclasses.replace(config, processes=1))
    world.durable = False
    outs, metrics = world.update(config, resident)
    assert list(resident) == [
        (launch.GANG.name, "")
    ]  # the old weights are of no use any more, the new ones are in files
    _, waiting = resident.get(launch.GANG) or pytest.fail("no processes wait")
    assert waiting.running()
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
    assert units[0] != units[-1] == "optimizer step 1"
    assert not torch.equal(weights(outs.policy)["model.norm.weight"], weights(world.policy)["model.norm.weight"])
    world.advance(outs, resident)
    world.durable = True
    outs, _ = world.update(config, resident)
    assert resident.get(launch.GANG) is None and waiting.jobs == 2 and not waiting.running()
    assert outs.trainer.read_json("trainer.json")["optimizer_steps"] == 2
    assert not outs.policy.digest  # the runner names what is stored, by its bytes


def test_a_state_that_its_processes_took_along_is_a_clear_error(world: World) -> None:
    """Others were started in the middle of a segment: they hold nothing, and there are no files."""
    folder = world.root / "between"
    folder.mkdir()
    (folder / "trainer.json").write_text(json.dumps({"resident": True}))
    world.trainer = TrainerState(folder, "t")
    ins: Any = world
    with pytest.raises(LedgerError, match="run the segment again"):
        improve._learner(ins, PolicyGradientConfig(), world.context(), Ranks(0, 2), improve.Held(), lambda: None)


@pytest.mark.parametrize("same", [True, False])
def test_an_inner_step_is_named_without_reading_its_weights(
    world: World, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """By the fingerprint of the weights, which keep their name where nothing changed; the trainer by its record."""
    first, _ = world.update(PolicyGradientConfig(lr=1e-3))
    world.trainer, world.durable = TrainerState(first.trainer.path, "sha256:1"), False
    before = first.trainer.read_json("trainer.json")

    def work(job: dict[str, Any], last: bool, ctx: Context) -> dict[str, float]:
        assert not last and ctx.scratch
        for name, (folder, _) in job["outs"].items():
            shutil.copytree(getattr(first, name).path, folder, dirs_exist_ok=True)
        record = before | {"updates": 2, "fingerprint": before["fingerprint"] if same else "other"}
        (Path(job["outs"]["trainer"][0]) / "trainer.json").write_text(json.dumps(record))
        return {}

    monkeypatch.setattr(launch, "_gang", lambda *_: SimpleNamespace(work=work))
    outs, _ = world.update(PolicyGradientConfig(lr=1e-3, processes=2))
    assert (outs.policy.digest == world.policy.digest) is same and outs.policy.digest
    assert outs.trainer.digest not in ("", "sha256:1")


@given(num=st.integers(0, 12), size=st.integers(2, 5))
def test_every_pass_counts_once_and_all_processes_run_equally_many(num: int, size: int) -> None:
    passes: Any = [f"pass {i}" for i in range(num)]
    shares: list[Any] = [Ranks(rank, size).share(passes) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(micro for share in shares for micro, counts in share if counts) == sorted(passes)


@pytest.mark.parametrize("packing", ["none", "sequence", "prefix"])
def test_the_budget_gives_every_process_something_to_do(world: World, packing: Any) -> None:
    """16 rollouts fit one pass of 2048 tokens; two processes take half each, in one round."""
    data = joined(world)
    config = budget.split(PolicyGradientConfig(packing=packing), data, 2)
    assert len(shapes(data, np.arange(16), 2048, packing)) == 1
    assert len(shapes(data, np.arange(16), config.micro_batch_tokens, packing)) == 2
    # A pass may never grow beyond what the configuration allows.
    tight = budget.split(PolicyGradientConfig(packing=packing, micro_batch_tokens=12), data, 2)
    assert tight.micro_batch_tokens <= 12


def test_the_plan_of_a_process_counts_its_shards_and_what_it_gathers(world: World) -> None:
    """Two layers, so everything is gathered at once: in the type of the pass, its gradient, and the sum's in float32."""
    num = memory.count_parameters(world.policy.path)
    config = PolicyGradientConfig(dtype="bfloat16", packing="none")
    alone = memory.plan(world.policy, config, joined(world), True, checkpointing=False)
    for size in (2, 4):
        each = budget.plan(world.policy, config, joined(world), True, False, size)
        assert each.weights_bytes == 4 * num // size + num * (2 + 2 + 4)
        assert each.trained_bytes == 12 * num // size
        assert each.reference_bytes == 2 * num // size + 2 * num
        assert (each.activation_bytes, each.logits_bytes) == (alone.activation_bytes, alone.logits_bytes)


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"update\.processes"):
        PolicyGradientConfig(processes=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launch.count(PolicyGradientConfig(processes="auto"), "cuda") == 2
    assert launch.count(PolicyGradientConfig(processes="auto"), "cpu") == 1
    with pytest.raises(ConfigError, match="at most 2 processes"):
        launch.count(PolicyGradientConfig(processes=3), "cuda")


def test_another_launcher_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"update\.processes"):
        world.update(PolicyGradientConfig())
