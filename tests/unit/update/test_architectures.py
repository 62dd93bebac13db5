"""Models of other families than Llama: gradients against plain torch, and what is refused because they would be wrong."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.update.world import VOCABULARY, World, joined, sample_rollouts, save_model

from instar.components.policy_io import load_model
from instar.components.update import batching
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.learner import Learner, recompute_layers
from instar.components.update.memory import sizes
from instar.errors import ArtifactError, ConfigError

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neo": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 32,
    },
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 24,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 64,
        "dropout": 0.5,
    },
    "phi": SHAPE,
    "gemma3_text": SHAPE | {"sliding_window": 32},
}


def family(kind: str, scale: float = 0.3, **changes: Any) -> Any:
    """Return a model of a family with weights from a fixed generator."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**FAMILIES.get(kind, SHAPE) | changes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.copy_(scale * torch.randn(p.shape, generator=generator))
    return model


def world_of(model: Any, root: Path) -> World:
    policy = save_model(model, root / "policy0", "digest0")
    batch, rollouts, scores = sample_rollouts(model, "digest0")
    return World(root=root, policy=policy, batch=batch, rollouts=rollouts, scores=scores)


def plain_gradient(model: Any, world: World) -> dict[str, torch.Tensor]:
    """Return the gradient of one on-policy step, one sequence at a time, from the model's own logits."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for row, score in zip(world.rollouts, world.scores, strict=True):
        groups[row.group_id].append((row, score.reward))
    num_tokens = sum(len(row.behaviour_logprobs) for row in world.rollouts)
    for members in groups.values():
        rewards = torch.tensor([reward for _, reward in members], dtype=torch.float64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for (row, _), advantage in zip(members, advantages.tolist(), strict=True):
            ids, start = torch.tensor([row.token_ids]), row.steps[0].end
            logp = model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
            chosen = logp[start - 1 : -1].gather(1, ids[0, start:, None])
            (-advantage * chosen.sum() / num_tokens).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", ["off", "on"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_gradient_is_that_of_plain_torch(
    kind: str, checkpointing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPT's layers drop out by a function of their own, which asks whether the layer trains; recomputing must not."""
    model = family(kind)
    world, found = world_of(model, tmp_path), {}
    step = Learner.step

    def noted(learner: Learner) -> float:
        found.update({name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None})
        return step(learner)

    monkeypatch.setattr(Learner, "step", noted)
    world.update(PolicyGradientConfig(packing="prefix", gradient_checkpointing=checkpointing, micro_batch_tokens=40))
    expected = plain_gradient(model, world)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_checkpointing_computes_layers_again(tmp_path: Path) -> None:
    """Without it a layer of OPT runs once per forward pass, with it once more in backward."""
    from transformers.models.opt.modeling_opt import OPTAttention

    calls, counted = [], {}
    original = OPTAttention.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return original(self, *args, **kwargs)

    for choice in ("off", "on"):
        calls.clear()
        folder = tmp_path / choice
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OPTAttention, "forward", forward)
            world = world_of(family("opt"), folder)
            calls.clear()
            world.update(PolicyGradientConfig(gradient_checkpointing=choice))  # type: ignore[arg-type]
        counted[choice] = sum(calls)
    assert counted["on"] == 2 * counted["off"] > 0


def test_layers_that_are_computed_again_stay_in_evaluation_mode() -> None:
    """A pass without gradients is not computed again; it must not drop out either (transformers 5.24 told it to)."""
    model, ids = family("opt"), torch.arange(6)[None]
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
    recompute_layers(model)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, expected, rtol=0, atol=0)
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits.detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_model_whose_layers_cannot_be_computed_again_is_refused() -> None:
    with pytest.raises(ConfigError, match="GradientCheckpointingLayer"):
        recompute_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "granite"])
def test_logits_that_are_changed_after_the_head_are_refused_while_they_are_small(kind: str, tmp_path: Path) -> None:
    """Logits of .01 are capped at 30 by a part in ten million: no comparison of numbers finds that before they grow."""
    changes = {"granite": {"logits_scaling": 1.01}, "gemma2": {"sliding_window": 32}}.get(kind, {})
    world = world_of(family(kind, scale=0.01, **changes), tmp_path)
    with pytest.raises(ConfigError, match="logits are what its head gives"):
        world.update(PolicyGradientConfig(packing="none"))


def test_rows_as_wide_as_a_sliding_window_are_not_packed(tmp_path: Path) -> None:
    """Windows of 7 tokens: the narrow rollouts that are checked fit in, others do not."""
    world = world_of(family("gemma3_text", sliding_window=7), tmp_path)
    widest = max(len(row.token_ids) for row in world.rollouts)
    assert min(len(row.token_ids) for row in world.rollouts) < 7 <= widest
    for packing in ("prefix", "sequence"):
        with pytest.raises(ConfigError, match="sliding window of 7 tokens"):
            world.update(PolicyGradientConfig(packing=packing))  # type: ignore[arg-type]
    _, metrics = world.update(PolicyGradientConfig(packing="auto"))
    assert metrics["mismatch/abs_max"] < 1e-4


def test_auto_packs_where_the_window_is_wider(tmp_path: Path) -> None:
    world = world_of(family("gemma3_text"), tmp_path)
    chosen = batching.with_layout(PolicyGradientConfig(), joined(world), world.policy)
    assert chosen.packing == "prefix"
    narrow = tmp_path / "policy0" / "config.json"
    narrow.write_text(narrow.read_text().replace('"sliding_window": 32', '"sliding_window": 7'))
    assert batching.with_layout(PolicyGradientConfig(), joined(world), world.policy).packing == "none"


def test_a_checkpoint_without_one_of_its_weights_is_refused(tmp_path: Path) -> None:
    """Planted: transformers warns and draws the missing matrix anew at every load."""
    from safetensors.torch import load_file, save_file

    model = family("phi")
    world = world_of(model, tmp_path)
    file = world.policy.path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.fc1.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"none for 1, first model\.layers.1\.mlp\.fc1\.weight"):
        load_model(world.policy, world.context())


def test_an_unknown_family_has_a_memory_plan_or_a_named_error() -> None:
    assert sizes({"model_type": "gpt_neo", "hidden_size": 8, "num_layers": 3, "vocab_size": 5}) == {
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "intermediate_size": 32,
        "vocab_size": 5,
    }
    assert sizes({"model_type": "mpt", "d_model": 8, "n_layers": 3, "vocab_size": 5})["hidden_size"] == 8
    with pytest.raises(ConfigError, match="no hidden_size"):
        sizes({"model_type": "nobody's", "vocab_size": 5})
