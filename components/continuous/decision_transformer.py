"""Decision Transformer. It has the tokens and heads of Decision Mamba, and causal attention in place of the scans."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instar.components.continuous.config import DecisionTransformerArch
from instar.components.continuous.model import ContinuousConfig, ContinuousOutput, ContinuousPolicy
from instar.components.continuous.tokens import Heads, Tokens


class Block(nn.Module):
    """Attention and a perceptron with four times the width. Each has a norm in front and is added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, h: Tensor, allowed: Tensor | None) -> Tensor:
        """Return [B, L, d]. `allowed` [B, 1, L, L] says which keys a query may see. None means all keys up to the query."""
        batch, length, width = h.shape
        qkv: Tensor = self.qkv(self.norm1(h))
        q, k, v = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None)
        h = h + self.out(seen.transpose(1, 2).flatten(2))
        deep: Tensor = self.down(F.gelu(self.up(self.norm2(h))))
        return h + deep


class DecisionTransformerConfig(ContinuousConfig):
    """Stored configuration of a Decision Transformer policy."""

    model_type: ClassVar[str] = "instar_decision_transformer"


class DecisionTransformer(ContinuousPolicy):
    """The policy. When it acts, it reads the last K steps again at every step."""

    config_class = DecisionTransformerConfig
    arch_class = DecisionTransformerArch
    arch: DecisionTransformerArch  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: ContinuousConfig) -> None:
        super().__init__(config)
        arch, task = self.arch, self.task
        self.tokens = Tokens(task.state_dim, task.action_dim, arch.width, arch.max_timestep, arch.encoder)
        self.layers = nn.ModuleList(Block(arch.width, arch.heads) for _ in range(arch.layers))
        self.norm = nn.LayerNorm(arch.width)
        self.heads = Heads(arch.width, task.state_dim, task.action_dim, arch.head, arch.auxiliary)
        self.post_init()

    def predict(
        self, states: Tensor, actions: Tensor, returns: Tensor, timesteps: Tensor, mask: Tensor | None
    ) -> ContinuousOutput:
        """Return the predictions for a window; see `ContinuousPolicy.forward`."""
        h = self.tokens(returns, states, actions, timesteps)
        allowed = None if mask is None else _allowed(mask.repeat_interleave(3, dim=1))
        for layer in self.layers:
            h = layer(h, allowed)
        return ContinuousOutput(*self.heads(self.norm(h)))


def _allowed(mask: Tensor) -> Tensor:
    """Return which keys a query may see: those up to the query that are not padded.

    Every query may also see itself. Otherwise a padded query could see no key, and its softmax would be NaN.
    """
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((causal & mask[:, None]) | itself)[:, None]
