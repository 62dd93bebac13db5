"""Decoding for the Llama family: the same arithmetic as transformers, in fewer and larger operations.

Shapes: R rows, E hidden, A query heads, H key-value heads, D head width, V vocabulary, N prompts, W columns.

- One matrix product per layer computes queries, keys and values. Another one computes gate and up.
- Rotary angles are computed once per step, for all layers.
- The queries that share a key-value head stand side by side, so keys are not repeated. Keys and values are written in place.
- Weights are converted, fused and laid out once per policy. The model that they come from stays as it is.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from instar.components.policy_io import logits_dtype
from instar.components.rollout.forward import Name
from instar.components.rollout.packed_linear import Linear, linear
from instar.components.rollout.slot_cache import Prefix, SlotCache
from instar.kernels.decode import dispatch as kernels

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_PRODUCTS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
_ROWS = 32  # number of rows for which weights are laid out


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """Matrix products and scales of one layer. `heads` has the scales of queries and keys, where a family has them (Qwen3)."""

    before: Tensor
    qkv: Linear
    out: Linear
    after: Tensor
    gate_up: Linear
    down: Linear
    heads: tuple[Tensor, Tensor] | None


def refusal(model: Any) -> str:
    """Return the reason why this code cannot serve `model`, or an empty text when it can."""
    kind = type(model).__name__
    if kind not in FAMILY:
        return f"{kind} is not of the Llama family"
    if model.config.hidden_act != "silu":
        return f"activation {model.config.hidden_act}"
    hooked = (name for name, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks)
    if (name := next(hooked, None)) is not None:
        return f"{name or 'the model'} has hooks"
    kinds = {name: type(module) for name, module in model.named_modules()}
    layers = [f"model.layers.{i}.{part}" for i in range(model.config.num_hidden_layers) for part in _PRODUCTS]
    changed = (name for name in [*layers, "lm_head"] if kinds.get(name) is not torch.nn.Linear)
    return next((f"{name} is not a plain linear layer" for name in changed), "")


class LlamaForward:
    """The weights of one model, ready to decode."""

    name: Name = "packed"

    def __init__(self, model: Any, dtype: torch.dtype, device: str) -> None:
        config, core = model.config, model.model
        self.device, self._dtype = torch.device(device), dtype
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._width = int(getattr(config, "head_dim", None) or config.hidden_size // self._heads)
        self._eps = float(config.rms_norm_eps)
        self._rope: Any = copy.deepcopy(core.rotary_emb).to(device)
        with torch.no_grad():
            self._embed = self._take(core.embed_tokens.weight)
            self._layers = [self._layer(layer) for layer in core.layers]
            self._norm = self._take(core.norm.weight)
            self._kind = logits_dtype(dtype, device)
            self._head = self._linear(model.lm_head, dtype=self._kind)
        self._kernel = kernels.choose(
            dtype, device, width=self._width, sizes=(int(config.hidden_size), int(config.intermediate_size))
        )
        self.reason = f"{type(model).__name__}; {self._kernel.name}: {self._kernel.reason}"
        self.compiled = self._kernel.name == "cpp" or kernels.draws(self._kind, device)

    def _take(self, weight: Tensor) -> Tensor:
        return weight.detach().to(device=self.device, dtype=self._dtype)

    def _linear(self, *modules: Any, dtype: torch.dtype | None = None) -> Linear:
        """Return one product with the weights of all modules, stacked by rows."""
        weight = torch.cat([m.weight.detach() for m in modules]) if modules[1:] else modules[0].weight
        bias = None if modules[0].bias is None else torch.cat([m.bias.detach() for m in modules])
        kind = dtype or self._dtype
        return linear(self._take(weight).to(kind), None if bias is None else self._take(bias).to(kind), _ROWS)

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        normed = hasattr(attention, "q_norm")
        return _Layer(
            before=self._take(layer.input_layernorm.weight),
            qkv=self._linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=self._linear(attention.o_proj),
            after=self._take(layer.post_attention_layernorm.weight),
            gate_up=self._linear(mlp.gate_proj, mlp.up_proj),
            down=self._linear(mlp.down_proj),
            heads=(self._take(attention.q_norm.weight), self._take(attention.k_norm.weight)) if normed else None,
        )

    def step(self, token: Tensor, position: Tensor, cache: SlotCache, columns: int, ragged: bool) -> Tensor:
        """Append `token` [R] at `position` [R] and return the next logits [R, V]."""
        x = self._embed[token]
        cos, sin = self._rope(x, position[:, None])
        where = kernels.Where(cos=cos, sin=sin, position=position, columns=columns, ragged=ragged)
        kernel, delta = self._kernel, None
        for i, layer in enumerate(self._layers):
            normed = kernel.add_norm(x, delta, layer.before, self._eps)
            qkv = self._split(layer.qkv(normed), layer)
            mixed = kernel.attend(qkv, cache.keys[i], cache.values[i], where)
            normed = kernel.add_norm(x, layer.out(mixed), layer.after, self._eps)
            delta = layer.down(kernel.silu_mul(layer.gate_up(normed)))
        return self._head(kernel.add_norm(x, delta, self._norm, self._eps).to(self._kind))

    def read(self, prompts: list[tuple[int, ...]]) -> tuple[Tensor, Prefix]:
        """Return the next-token logits [N, V] of prompts that are sorted by length, with keys and values. Padding is on the
        right."""
        width, count, prefix, delta = len(prompts[-1]), len(prompts), Prefix(), None
        ids = torch.tensor([[*p, *[p[-1]] * (width - len(p))] for p in prompts], device=self.device)
        x = self._embed[ids.flatten()]
        cos, sin = self._rope(x, torch.arange(width, device=self.device)[None])
        kernel = self._kernel
        for layer in self._layers:
            qkv = self._split(layer.qkv(kernel.add_norm(x, delta, layer.before, self._eps)), layer)
            heads = qkv.view(count, width, -1, self._width).transpose(1, 2)
            q, k, v = torch.split(heads, [self._heads, self._kv_heads, self._kv_heads], 1)
            q, k = kernels.rotate(q, cos, sin), kernels.rotate(k, cos, sin)
            prefix.append((k, v))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            mixed = mixed.transpose(1, 2).reshape(count * width, -1)
            normed = kernel.add_norm(x, layer.out(mixed), layer.after, self._eps)
            delta = layer.down(kernel.silu_mul(layer.gate_up(normed)))
        ends = torch.tensor([i * width + len(p) - 1 for i, p in enumerate(prompts)], device=self.device)
        assert delta is not None
        return self._head(kernel.add_norm(x[ends], delta[ends], self._norm, self._eps).to(self._kind)), prefix

    def _split(self, qkv: Tensor, layer: _Layer) -> Tensor:
        """Return [M, A + 2 H, D]. Queries and keys are scaled where the family does so."""
        qkv = qkv.view(len(qkv), -1, self._width)
        if layer.heads is None:
            return qkv
        q, k, v = torch.split(qkv, [self._heads, self._kv_heads, self._kv_heads], 1)
        shape = (self._width,)
        return torch.cat(
            [
                functional.rms_norm(q, shape, layer.heads[0], self._eps),
                functional.rms_norm(k, shape, layer.heads[1], self._eps),
                v,
            ],
            1,
        )
