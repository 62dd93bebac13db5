"""What one update saw and did, gathered while it trains. `metrics` turns it into numbers for the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from instar.components.update.advantages import Bools, Floats
from instar.components.update.batching import padding_ratio

if TYPE_CHECKING:
    from instar.components.update.minibatches import Minibatch
    from instar.components.update.update_batch import UpdateBatch


@dataclass
class Trace:
    """Lists of what was seen: tensors and counts have one entry for each micro-batch, numbers one for each optimiser step."""

    log_w: list[Tensor] = field(default_factory=list)
    clipped: list[tuple[int, int]] = field(default_factory=list)
    entropy: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    kl: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    normalisers: list[float] = field(default_factory=list)
    skipped: int = 0
    padding: float = 1.0
    gap: dict[str, float] = field(default_factory=dict)

    def add_pass(self, tokens: Tensor, log_w: Tensor, entropy: Tensor, clipped: tuple[Tensor, Tensor]) -> None:
        """Add what one micro-batch showed. `clipped` are two masks: the tokens clipped below and those clipped above."""
        low, high = clipped
        self.clipped.append((int(low.sum()), int(high.sum())))
        self.log_w.append(log_w.detach())
        self.entropy.append(entropy.detach())
        self.tokens.append(tokens)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an update reports: the groups that it trained on [G], mean |A| of each rollout [N], and the trace."""

    trained_groups: Bools
    abs_advantage: Floats
    trace: Trace


def new_trace(data: UpdateBatch, steps: list[Minibatch]) -> Trace:
    """Return the trace of an update that is about to take these steps."""
    micros = [micro for step in steps for micro in step.micros]
    real_tokens = int(sum(data.widths[micro.rows.numpy()].sum() for micro in micros))
    padding = padding_ratio(micros, real_tokens) if micros else 1.0
    return Trace(normalisers=[step.normaliser for step in steps], padding=padding)
