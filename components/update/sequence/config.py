"""The settings of the supervised update: predict the action, and what follows it, in windows of logged trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from instar.components.piece import COUNTS, Piece, RecipeView, Sections
from instar.components.update.schedule import check_schedule, outlook
from instar.config import out_of_range

if TYPE_CHECKING:
    from instar.components.update.stage import Ins, Outs
    from instar.contract import Context, Metrics


@dataclass(frozen=True, kw_only=True)
class SequenceConfig(Piece):
    """Return-conditioned sequence modelling (Decision Mamba, sections 4 and 5). Decision Transformer and BC have the same loss.

    L = w_action |a_hat - target|^2 + w_state Huber(s_hat, next state) + w_return Huber(R_hat, next return-to-go)

    Padding does not count. A policy without auxiliary heads has only the action term, with weight 1. The defaults are those of
    the released code.
    """

    REQUIRES: ClassVar[frozenset[str]] = frozenset(
        {"data.observations", "data.actions", "data.rewards", "rollouts.offset", "scores.reward", "scores.components"}
    )
    # sum_reward is not among them. A window's return-to-go is part of the data and no update changes it, so it shows no progress.
    PROVIDES: ClassVar[frozenset[str]] = COUNTS | {"stats.sum_loss", "stats.sum_loss_change"}

    strategy: Literal["sequence"] = "sequence"
    batch: int = 64
    """Windows of one optimiser step. The drawn windows are used in the order of their slots, each once."""
    weights: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """Weights of three loss terms: action, next state, next return-to-go."""
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-6
    weight_decay: float = 1e-5
    decay_ssm_params: bool = False
    """Whether weight decay also applies to A_log, D and the norms. The released code does that by mistake."""
    max_grad_norm: float = 0.25
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 2500
    """Optimiser steps of the linear warm-up, counted over the whole evolution."""
    total_steps: int = 0
    """Number of optimiser steps after which a linear or cosine schedule reaches 0. It must be at least that of the run."""
    probe: int = 256
    """Number of windows, spread over the arms, whose loss is measured before and after. A curriculum learns from the change."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        _need(self.batch >= 1, ">= 1", self.batch, "batch")
        _need(self.probe >= 1, ">= 1", self.probe, "probe")
        _need(
            min(self.weights) >= 0 and self.weights[0] > 0,
            "three weights >= 0, that of the action > 0",
            self.weights,
            "weights",
        )
        _need(self.lr > 0, "> 0", self.lr, "lr")
        _need(self.max_grad_norm > 0, "> 0", self.max_grad_norm, "max_grad_norm")
        _need(all(0.0 <= b < 1.0 for b in self.betas), "two numbers in [0, 1)", self.betas, "betas")
        _need(self.adam_eps > 0, "> 0", self.adam_eps, "adam_eps")
        _need(self.weight_decay >= 0, ">= 0", self.weight_decay, "weight_decay")
        _need(self.warmup_steps >= 0, ">= 0", self.warmup_steps, "warmup_steps")
        good = self.schedule == "constant" or self.total_steps > self.warmup_steps
        _need(good, f"> warmup_steps, which is {self.warmup_steps}", self.total_steps, "total_steps")

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect now, each with the setting that would read it."""
        return {"total_steps": "update.schedule=linear or cosine"} if self.schedule == "constant" else {}

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Fit the policy to the labelled windows of one batch."""
        from instar.components.update.sequence.fit import fit

        return fit(ins, outs, self, ctx)

    def steps_per_update(self, recipe: RecipeView) -> int:
        """Return the optimiser steps of one update."""
        return -(-recipe.curriculum.slots * recipe.curriculum.group_size // self.batch)

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse a schedule that ends before the run."""
        del name
        check_schedule(recipe)

    def explain(self, recipe: RecipeView) -> Sections:
        """State loss, optimiser and batch."""
        return {
            "loss": self._explain_loss(recipe),
            "optimiser": [self._explain_optimiser(), *filter(None, [outlook(recipe)])],
            "loop": self._explain_loop(recipe),
        }

    def _explain_loss(self, recipe: RecipeView) -> list[str]:
        prep, action = recipe.dataset_prep, "|a_hat_t - a~_t|^2"
        if prep.strategy != "offline" or prep.arch.strategy == "bc" or not prep.arch.auxiliary:
            return [f"L = mean {action}, over the steps of a window that are not padding"]
        act, state, rtg = self.weights
        return [
            f"L = {act:g} mean {action} + {state:g} mean Huber(s_hat_t+1 - s_t+1) + {rtg:g} mean Huber(R_hat_t+1 - R_t+1)",
            "means over the steps of a window that are not padding; the last step of an episode has no next one; Huber with "
            "delta 1",
        ]

    def _explain_optimiser(self) -> str:
        end = f", {self.schedule} to 0 at {self.total_steps}" if self.schedule != "constant" else ""
        warm = f", {self.warmup_steps} warm-up steps over the evolution" if self.warmup_steps else ""
        decayed = "of all but biases and LayerNorm" if self.decay_ssm_params else "not of A_log, D, norms and biases"
        return (
            f"AdamW lr {self.lr:g}{warm}{end}, betas {self.betas[0]:g}/{self.betas[1]:g}, eps {self.adam_eps:g}, weight decay "
            f"{self.weight_decay:g} ({decayed}), gradient norm <= {self.max_grad_norm:g}; {self.batch} windows per step"
        )

    def _explain_loop(self, recipe: RecipeView) -> list[str]:
        drawn, total = recipe.curriculum.prompts, recipe.iterations * recipe.inner_steps
        steps = -(-drawn // self.batch)
        return [
            f"{recipe.iterations} iterations x {recipe.inner_steps} inner step(s), clock '{recipe.clock}'; evaluation and gate "
            "after each iteration; what the policy does in evaluation never enters the data",
            f"per inner step {drawn} windows, each used once: {steps} optimiser steps, {steps * total} in all",
        ]


def _need(good: bool, expected: str, found: object, name: str) -> None:
    if not good:
        raise out_of_range(f"update.{name}", expected, found)
