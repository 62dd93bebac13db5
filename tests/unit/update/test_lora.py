"""The adapter beside the merged weights: what peft reads there is the policy, and it names its base."""

from __future__ import annotations

import json
from typing import Any

import torch

from instar.components.policy_io import fingerprint, load_model
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from instar.components.update.lora import ADAPTER
from unit.update.world import World, tiny_llama, weights

CONFIG = PolicyGradientConfig(lr=1e-2, lora=LoraConfig(r=2, alpha=4, targets=("q_proj", "down_proj")))
IDS = torch.tensor([[1, 2, 3, 4, 5]])


def test_base_and_adapter_are_the_policy(world: World) -> None:
    """After two updates, so that the adapter adds to the first base and not to the policy in between."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base_digest = world.policy.digest
    for _ in range(2):
        world.advance(world.update(CONFIG)[0])
    folder = world.policy.path / ADAPTER
    assert {p.name for p in folder.iterdir()} == {"adapter_model.safetensors", "adapter_config.json", "base.json"}
    base: Any = tiny_llama()
    assert json.loads((folder / "base.json").read_text()) == {"digest": base_digest, "fingerprint": fingerprint(base)}
    with torch.no_grad():
        plain = base(input_ids=IDS).logits
        adapted = PeftModel.from_pretrained(base, folder)(input_ids=IDS).logits
        # Whoever loads the folder and knows nothing of adapters has the policy, not its base.
        merged: Any = AutoModelForCausalLM.from_pretrained(world.policy.path)
        stranger = merged(input_ids=IDS).logits
    torch.testing.assert_close(adapted, stranger, rtol=1e-5, atol=1e-5)
    assert float((stranger - plain).abs().max()) > 1e-3


def test_a_sync_sends_the_adapter_alone(world: World) -> None:
    """Only the adapted matrices differ between two policies, and the adapter is all an engine with the base needs."""
    one, _ = world.update(CONFIG)
    world.advance(one)
    two, _ = world.update(CONFIG)
    files = [{p.name: p.read_bytes() for p in (o.policy.path / ADAPTER).iterdir()} for o in (one, two)]
    assert {name for name in files[0] if files[0][name] != files[1][name]} == {"adapter_model.safetensors"}
    before, after = weights(one.policy), weights(two.policy)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.{n}.weight" for i in (0, 1) for n in ("self_attn.q_proj", "mlp.down_proj")}


def test_a_step_without_signal_carries_the_adapter(world: World) -> None:
    outs, _ = world.update(CONFIG)
    world.advance(outs)
    world.scored(lambda row: 1.0)
    still, metrics = world.update(CONFIG)
    assert metrics["updates"] == 0
    for file in (outs.policy.path / ADAPTER).iterdir():
        assert (still.policy.path / ADAPTER / file.name).read_bytes() == file.read_bytes()
    assert fingerprint(load_model(still.policy, world.context())) == fingerprint(
        load_model(outs.policy, world.context())
    )
