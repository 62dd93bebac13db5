"""Row 32, adapters beside layers that a model does not have: what is named is adapted, all of it, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from instar.components.update import lora
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from instar.errors import ConfigError
from unit.update.test_architectures import family, world_of
from unit.update.world import World, make_world, tiny_llama

IDS = torch.arange(1, 9)[None]
EXPERTS: dict[str, Any] = {"num_local_experts": 4}
LINEAR = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "gpt_neo": {"q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def refused(world: World, *targets: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        world.update(PolicyGradientConfig(lora=LoraConfig(targets=targets)))
    assert caught.value.where == "update.lora.targets"
    return caught.value


def test_targets_that_match_no_layer_are_named(world: World) -> None:
    """Planted: q_proj alone was adapted, without a word about the others."""
    error = refused(world, "q_proj", "c_attn", "k_proj", "c_fc")
    assert error.found == "c_attn, c_fc" and "q_proj" in error.action
    assert refused(world, "proj").found == "proj"  # no part of a name but the whole last one


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_head_and_embeddings_are_refused_by_name(target: str) -> None:
    """Planted: an adapter of an embedding did not start at 0, and the numbers were blamed."""
    with pytest.raises(ConfigError, match="reads head and embeddings as matrices"):
        LoraConfig(targets=("q_proj", target))


@pytest.mark.parametrize("target", ["norm", "mlp", "model.embed_tokens"])
def test_what_is_no_linear_layer_is_refused(world: World, target: str) -> None:
    assert refused(world, target).found == target


def test_the_head_is_told_by_what_it_is() -> None:
    with pytest.raises(ConfigError, match="below its head"):
        lora.adapted(tiny_llama(), ["lm_head"])


@pytest.mark.parametrize("kind", LINEAR)
def test_by_default_every_linear_layer_of_a_family_is_adapted(kind: str) -> None:
    """Each adapter starts at 0 and has a gradient: the layer asks it, and does not use its matrix alone."""
    model = tiny_llama() if kind == "llama" else family(kind)
    before = model(input_ids=IDS).logits.detach()
    wrapped = lora.attach(model, LoraConfig(r=2), 0)
    after = wrapped(input_ids=IDS).logits
    assert torch.equal(before, after)
    after.square().sum().backward()
    found = lora.adapters(wrapped)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in found} == LINEAR[kind]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in found.items() if "lora_B" in name)


def test_experts_are_not_left_out_without_a_word() -> None:
    model = family("mixtral", **EXPERTS)
    with pytest.raises(ConfigError, match=r"experts\.gate_up_proj.*the experts are not trained then"):
        lora.attach(model, LoraConfig(r=2), 0)
    lora.attach(model, LoraConfig(r=2, targets=("q_proj",)), 0)


def test_layers_that_use_their_matrix_alone_are_refused() -> None:
    """Mamba multiplies by the matrix of `out_proj` and never calls the layer."""
    with pytest.raises(ConfigError, match="out_proj"):
        lora.attach(family("mamba", state_size=4), LoraConfig(r=2), 0)


def test_transposed_layers_train_and_merge(tmp_path: Path) -> None:
    """GPT-2 holds its matrices as [in, out]; base and adapter are the policy there too."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    world = world_of(family("gpt2"), tmp_path)
    outs, metrics = world.update(PolicyGradientConfig(lr=1e-2, lora=LoraConfig(r=2)))
    assert metrics["updates"] == 1
    base: Any = family("gpt2")
    merged: Any = AutoModelForCausalLM.from_pretrained(outs.policy.path)
    with torch.no_grad():
        plain, policy = base(input_ids=IDS).logits, merged(input_ids=IDS).logits
        adapted = PeftModel.from_pretrained(base, outs.policy.path / lora.ADAPTER)(input_ids=IDS).logits
    torch.testing.assert_close(adapted, policy, rtol=1e-5, atol=1e-5)
    assert float((policy - plain).abs().max()) > 1e-3
