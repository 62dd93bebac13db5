"""What stays on the device between inner steps, and what waits on the host: same bytes wherever it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from instar.components.policy_io import row_name
from instar.components.update import batching, forward
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from instar.components.update.resident_state import TRAINER
from instar.resident import Resident
from unit.update.world import joined, make_world, tiny_llama

pytestmark = pytest.mark.gpu
CASES = {
    "float32": PolicyGradientConfig(lr=1e-3),
    "bfloat16": PolicyGradientConfig(lr=1e-3, dtype="bfloat16"),
    "adapters": PolicyGradientConfig(lr=1e-3, lora=LoraConfig(r=2, alpha=4)),
}


def _segment(root: Path, config: PolicyGradientConfig) -> tuple[dict[str, bytes], set[str]]:
    """Return the files of the last of three steps, and where moments waited after the first."""
    root.mkdir()
    world, resident = make_world(root), Resident()
    rows = list(world.rollouts)
    places: set[str] = set()
    for step in range(3):
        world.durable = step == 2
        outs, _ = world.update(config, resident)
        state = resident.waiting(TRAINER, outs.trainer) if step == 0 else None
        places |= set() if state is None else {tensor.device.type for tensor in state.tensors.values()}
        world.durable = True
        policy = world.policy
        world.step += 1
        world.policy = type(policy)(outs.policy.path, f"model{step}")
        world.trainer = type(outs.trainer)(outs.trainer.path, f"trainer{step}")
        resident.adopt(world.policy)
        resident.adopt(world.trainer)
        world.rollouts = [dataclasses.replace(row, policy=row_name(world.policy)) for row in rows]
    folders = (world.policy.path, world.trainer.path)  # type: ignore[union-attr]
    files = {str(p.relative_to(f.parent)): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}
    return files, places


@pytest.mark.parametrize("name", CASES)
def test_moments_wait_on_the_device_or_the_host_and_the_bytes_are_the_same(tmp_path: Path, name: str) -> None:
    config = dataclasses.replace(CASES[name], lr=1e-5)
    device, there = _segment(tmp_path / "device", config)
    host, here = _segment(tmp_path / "host", dataclasses.replace(config, moments="host"))
    assert there == {"cuda"} and here == {"cpu"}
    assert device == host


@pytest.mark.parametrize("packing", ["none", "prefix"])
def test_a_pass_sent_from_pinned_memory_computes_what_the_host_would(tmp_path: Path, packing: str) -> None:
    world = make_world(tmp_path)
    data, config, model = joined(world), PolicyGradientConfig(), tiny_llama()
    with torch.no_grad():
        for micro in batching.micro_batches(data, np.arange(16), 40, packing):
            expected = forward.score(model, micro, config).logp
            found = forward.score(model.to("cuda"), micro.to("cuda"), config).logp
            model.to("cpu")
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
