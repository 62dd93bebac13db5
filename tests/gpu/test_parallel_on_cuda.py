"""The update in processes with NCCL, on two devices where there are two and else in shards of one: as in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from instar.components.update.parallel import gang
from instar.contract import Context
from support import parallel_cases
from support.parallel_cases import CASES, SEGMENTS, STEPS, exact_norms, search_path

pytestmark = pytest.mark.gpu
NAMES = ("three-groups", "minibatches", "kl-in-loss", "critic", "adapters", "checkpointing", "float32", "bfloat16")


def test_losses_and_states_are_those_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaRMSNorm.forward", exact_norms())
    monkeypatch.setenv("PYTHONPATH", search_path())
    jobs: dict[str, Any] = {}
    alone = {}
    for name in NAMES:
        (tmp_path / name).mkdir()
        world = parallel_cases.world(tmp_path / name, CASES[name])
        jobs[name] = parallel_cases.job(world, CASES[name].config(), tmp_path / name / "together", "cuda")
        alone[name] = world.update(CASES[name].config())
    segments = {
        f"segment, {name}": parallel_cases.segment(tmp_path / "segments" / name, case, "cuda")
        for name, case in SEGMENTS.items()
    }
    (tmp_path / "job.json").write_text(json.dumps({**jobs, **segments}))
    context = Context(evolution="test", step=0, stage="update", scratch=tmp_path)
    gang.run(tmp_path, min(2, torch.cuda.device_count()), 120.0, context, "support.parallel_cases")
    for name, (outs, expected) in alone.items():
        close = {"float32": 1e-4, "bfloat16": 0.05}.get(name, 1e-6)
        found = json.loads((tmp_path / f"{name}.metrics.json").read_text())
        for key in ("loss", "grad_norm", "normaliser", "entropy", "updates"):
            assert found[key] == pytest.approx(expected[key], rel=close, abs=close), (name, key)
        ours, theirs = (
            load_file(folder / "trainer" / "optimizer.safetensors")
            for folder in (tmp_path / name / "together", outs.trainer.path.parent)
        )
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            gap = float((ours[key].double() - value.double()).abs().max())
            assert gap <= 10 * close * max(float(value.abs().max()), 1e-6), (name, key)
    for name in SEGMENTS:
        held, files = (tmp_path / "segments" / name / way / f"step{STEPS - 1}" for way in ("held", "files"))
        for part in ("policy", "trainer"):
            for file in sorted((files / part).rglob("*.safetensors")):
                ours, theirs = load_file(held / part / file.relative_to(files / part)), load_file(file)
                assert ours.keys() == theirs.keys()
                for key, value in theirs.items():
                    gap = float((ours[key].double() - value.double()).abs().max())
                    assert gap <= 0.01 * max(float(value.double().abs().max()), 1e-6), (name, key)
