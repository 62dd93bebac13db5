"""The same update whatever the micro-batch split, the padding, the layout or the chunk of the head, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from instar.components.update.config import Overlong
from instar.components.update.presets import PRESETS, preset
from unit.update.world import World, weights

VARIANTS: list[dict[str, Any]] = [
    {"packing": "none", "micro_batch_tokens": 1},
    {"packing": "none", "micro_batch_tokens": 50},
    {"packing": "sequence", "micro_batch_tokens": 30},
    {"packing": "prefix", "micro_batch_tokens": 40},
    {"packing": "prefix", "logprob_chunk": 3, "gradient_checkpointing": "on"},
]


@pytest.fixture(autouse=True)
def _norms_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library computes norms in float32 whatever the model's type; float64 shows what is exact."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.mark.parametrize("name", PRESETS)
def test_loss_gradient_and_weights_do_not_depend_on_the_split(world: World, name: str) -> None:
    base = preset(name, lr=1e-3, dtype="float64", entropy_coef=0.01, max_grad_norm=1e9)
    world.reference = world.policy if base.kl.place != "none" else None
    whole: dict[str, Any] = {"packing": "none", "micro_batch_tokens": 10**6}
    outs, expected = world.update(preset(name, **_fields(base) | whole))
    stored = weights(outs.policy)
    for changes in VARIANTS:
        outs, metrics = world.update(preset(name, **_fields(base) | changes))
        for key in ("loss", "grad_norm", "normaliser", "entropy", "updates"):
            assert metrics[key] == pytest.approx(expected[key], rel=1e-9), key
        for key, value in weights(outs.policy).items():
            torch.testing.assert_close(value, stored[key], rtol=1e-7, atol=1e-9)


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("lr", "dtype", "entropy_coef", "max_grad_norm")}


def test_the_loss_is_the_mean_over_all_tokens_of_the_step(world: World) -> None:
    """Against a plain computation: one sequence at a time through the model's own logits."""
    from instar.components.policy_io import load_model
    from instar.components.update.filters import keep_groups
    from instar.components.update.token_advantages import token_advantages
    from unit.update.world import joined

    config = preset("dapo", dtype="float64", lr=1e-4, overlong=Overlong(), max_grad_norm=1e9)
    _, metrics = world.update(config)
    data = joined(world)
    advantages = token_advantages(config, data, None)
    trained_groups = keep_groups(config.filter, data.correct, data.group, data.num_groups)
    model: Any = load_model(world.policy, world.context()).double()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(len(data.group)):
        if not trained_groups[data.group[row]]:
            continue
        ids = torch.tensor(data.tokens[data.token_offset[row] : data.token_offset[row + 1]])[None]
        logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        own = logp[-int(data.lengths[row]) :]
        a = float(advantages.token[data.action_offset[row]])
        total = total - (a * (own - own.detach()).exp()).sum()
        count += len(own)
    loss = total / count
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert metrics["normaliser"] == count
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-9)
