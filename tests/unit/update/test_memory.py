"""The memory prediction counts what it says, and shrinks with each of its remedies."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from instar.artifact import Policy
from instar.components.update import footprint, memory
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from instar.components.update.footprint import FIXED_BYTES, Passes, batch_bytes
from instar.errors import ConfigError
from instar.resident import Resident
from instar.rows import Step
from unit.update.world import World, joined, score_row, tiny_llama


def test_parameters_are_counted_from_the_file_headers(world: World) -> None:
    expected = sum(p.numel() for p in tiny_llama().parameters())
    assert memory.count_parameters(world.policy.path) == expected


def test_each_remedy_lowers_its_own_part(world: World) -> None:
    data = joined(world)

    def plan(config: PolicyGradientConfig, reference: bool = False, on: bool = False) -> memory.Plan:
        return memory.plan(world.policy, dataclasses.replace(config, packing="none"), data, reference, on)

    base = plan(PolicyGradientConfig())
    num = memory.count_parameters(world.policy.path)
    assert (base.weights_bytes, base.trained_bytes, base.reference_bytes) == (4 * num, 12 * num, 0)
    assert plan(PolicyGradientConfig(), reference=True).reference_bytes == 4 * num
    # A bfloat16 copy computes, and so does the reference; what is trained stays in float32.
    half = plan(PolicyGradientConfig(dtype="bfloat16"), reference=True)
    assert (half.weights_bytes, half.trained_bytes, half.reference_bytes) == (6 * num, 12 * num, 2 * num)
    assert half.activation_bytes < base.activation_bytes
    assert plan(PolicyGradientConfig(micro_batch_tokens=20)).activation_bytes < base.activation_bytes
    assert plan(PolicyGradientConfig(), on=True).activation_bytes < base.activation_bytes
    assert plan(PolicyGradientConfig(lora=LoraConfig(r=1, targets=("q_proj",)))).trained_bytes < base.trained_bytes
    assert plan(PolicyGradientConfig(logprob_chunk=2)).logits_bytes < base.logits_bytes
    parts = base.weights_bytes + base.trained_bytes + base.activation_bytes + base.logits_bytes + base.batch_bytes
    assert base.peak_bytes == FIXED_BYTES + parts
    passes = Passes(positions=40, masked_width=10, tokens=7)
    assert batch_bytes(passes, 2) == 40 * 16 + 40 * 10 * 3 + 7 * 56


SMOLLM = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}


def predicted(positions: int, on: bool, device: str = "cpu") -> memory.Plan:
    """Return the plan of one pass of SmolLM2-135M in float32."""
    passes = Passes(positions=positions, tokens=1536)
    return footprint.plan(SMOLLM, 134_515_008, PolicyGradientConfig(dtype="float32"), passes, False, on, device)


def test_recomputed_layers_leave_holes_in_the_heap_of_a_cpu() -> None:
    """The process that was measured grew by 3.17 GiB; its tensors alone, with every one mapped by itself, by 2.33."""
    made = predicted(2048, on=True)
    assert made.heap_bytes == 30 * 2 * 2048 * 1536 * 4
    assert made.peak_bytes == pytest.approx(3.17 * 2**30, rel=0.05)
    assert predicted(2048, on=False).heap_bytes == 0
    assert predicted(2048, on=True, device="cuda").heap_bytes == 0
    assert made.peak_bytes < predicted(2048, on=False).peak_bytes


def test_tensors_that_glibc_maps_by_themselves_leave_no_holes() -> None:
    """5,461 positions of 1,536 float32 numbers are just below 32 MiB."""
    assert predicted(5461, on=True).heap_bytes > 0
    assert predicted(5462, on=True).heap_bytes == 0


def test_checkpointing_is_chosen_where_the_rest_does_not_fit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = joined(world)
    config = PolicyGradientConfig(packing="none")
    off, on = (memory.plan(world.policy, config, data, False, choice) for choice in (False, True))
    assert on.peak_bytes < off.peak_bytes

    def decided(free: int, **changes: Any) -> memory.Plan:
        monkeypatch.setattr(memory, "available_bytes", lambda device: free)
        return memory.decide(world.policy, dataclasses.replace(config, **changes), data, False, "cpu")

    assert not decided(off.peak_bytes).checkpointing
    tight = decided(off.peak_bytes - 1)
    assert tight.checkpointing and "without" in tight.reason
    assert f"{on.peak_bytes / 2**30:.2f} GiB" in memory.line(tight, "none") and "on" in memory.line(tight, "none")
    with pytest.raises(ConfigError, match=r"lower it, set update\.lora"):
        decided(on.peak_bytes - 1)
    with pytest.raises(ConfigError, match="gradient_checkpointing=auto"):
        decided(off.peak_bytes - 1, gradient_checkpointing="off")
    assert decided(on.peak_bytes - 1, allow_over_memory=True).checkpointing


def test_the_choice_is_announced_before_it_is_used(world: World) -> None:
    said: list[tuple[str, dict[str, float]]] = []
    world.heartbeat = lambda unit, values: said.append((unit, dict(values)))
    _, metrics = world.update(PolicyGradientConfig(lr=1e-4))
    unit, values = said[0]
    assert unit.startswith("predicted peak") and "packing" in unit and "checkpointing off" in unit
    assert values["perf/predicted_peak_bytes"] == metrics["perf/predicted_peak_bytes"] > 0


def test_a_real_model_that_cannot_fit_is_refused_before_any_weight_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 6 at the size of SmolLM2-135M: 64 answers of 2,000 tokens in one pass, of which 24 GiB hold less than a third.

    The weights are a hole in the disk, so that reading them would give zeros; a layer keeps 12 x 576 + 4 x 1536 numbers a
    position, 30 of them in bfloat16 783,360 bytes.
    """
    folder = world.root / "real"
    folder.mkdir()
    shape = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    (folder / "config.json").write_text(json.dumps(shape))
    size = 134_515_008
    header = json.dumps({"w": {"dtype": "BF16", "shape": [size], "data_offsets": [0, 2 * size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * size)
    world.policy = Policy(folder, "digest0")
    row, scores = world.rollouts[0], []
    world.rollouts = []
    world.batch = [dataclasses.replace(world.batch[0], group_size=64)]
    for i in range(64):
        steps = [Step(role="prompt", start=0, end=1000), Step(role="action", start=1000, end=2000)]
        changes = {"rollout_id": f"g0/{i}", "token_ids": [i % 7] * 2000, "behaviour_logprobs": [-1.0] * 1000}
        world.rollouts.append(dataclasses.replace(row, steps=steps, **changes))
        scores.append(score_row(f"g0/{i}", float(i % 2), float(i % 2)))
    world.scores = scores
    monkeypatch.setattr(memory, "available_bytes", lambda device: 24 * 2**30)
    config = PolicyGradientConfig(dtype="bfloat16", micro_batch_tokens=128_000, packing="none")
    config = dataclasses.replace(config, gradient_checkpointing="off")
    resident = Resident()
    activations = 128_000 * 30 * (12 * 576 + 4 * 1536) * 2
    with pytest.raises(ConfigError, match=f"activations {activations / 2**30:.2f}"):
        world.update(config, resident)
    assert not list(resident)


def test_the_machine_has_memory() -> None:
    assert memory.available_bytes("cpu") > 0
