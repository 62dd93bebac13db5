"""The memory prediction counts what it says, and shrinks with each of its remedies."""

from __future__ import annotations

from instar.components.update import memory
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from unit.update.world import World, joined, tiny_llama


def test_parameters_are_counted_from_the_file_headers(world: World) -> None:
    expected = sum(p.numel() for p in tiny_llama().parameters())
    assert memory.count_parameters(world.policy.path) == expected


def test_each_remedy_lowers_its_own_part(world: World) -> None:
    data = joined(world)

    def plan(config: PolicyGradientConfig, reference: bool = False) -> memory.Plan:
        return memory.plan(world.policy, config, data, reference)

    base = plan(PolicyGradientConfig())
    num = memory.count_parameters(world.policy.path)
    assert (base.weights_bytes, base.trained_bytes, base.reference_bytes) == (4 * num, 12 * num, 0)
    assert plan(PolicyGradientConfig(), reference=True).reference_bytes == 4 * num
    assert plan(PolicyGradientConfig(micro_batch_tokens=20)).activation_bytes < base.activation_bytes
    assert plan(PolicyGradientConfig(gradient_checkpointing=True)).activation_bytes < base.activation_bytes
    assert plan(PolicyGradientConfig(lora=LoraConfig(r=1, targets=("q_proj",)))).trained_bytes < base.trained_bytes
    assert plan(PolicyGradientConfig(logprob_chunk=2)).logits_bytes == 2 * 2 * 20 * 4
    parts = base.weights_bytes + base.trained_bytes + base.activation_bytes + base.logits_bytes
    assert base.peak_bytes == memory.FIXED_BYTES + parts


def test_the_machine_has_memory() -> None:
    assert memory.available_bytes("cpu") > 0
