"""The settings of a policy-gradient update. A value that is known to train the wrong thing is refused, with the reason.

The defaults are the loss of DAPO (arXiv 2503.14476) without its filter and length penalty. Truncated importance weights
correct for a sampler that differs from the trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from instar.components.generated.templates import KINDS
from instar.components.piece import COUNTS, Piece, RecipeView, Sections
from instar.components.sandbox.config import UserCode
from instar.components.update.schedule import check_schedule, outlook
from instar.components.update.sequence.config import SequenceConfig
from instar.components.update.terms import Filter, Kl, LoraConfig, Mismatch, Overlong, need
from instar.errors import ConfigError, nearest

if TYPE_CHECKING:
    from instar.components.update.stage import Ins, Outs
    from instar.contract import Context, Metrics

__all__ = ["Config", "Filter", "Kl", "LoraConfig", "Mismatch", "Overlong", "PolicyGradientConfig", "SequenceConfig"]
BASELINES = {
    "none": "r_i",
    "batch": "r_i - mean(batch)",
    "group": "r_i - mean(group)",
    "loo": "n/(n-1) (r_i - mean(group)), the mean of the others",
    "critic": "GAE: d_t = r_t + gamma V_t+1 - V_t, A_t = sum_l (gamma lam)^l d_t+l",
}
AGGREGATES = {
    "token_mean": "L = sum_i sum_t l_it / (number of tokens of the optimiser step)",
    "seq_token_mean": "L = 1/B sum_i 1/T_i sum_t l_it",
    "seq_token_sum": "L = 1/B sum_i sum_t l_it",
    "constant": "L = 1/(B {max_length}) sum_i sum_t l_it",
}


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig(Piece):
    """One policy-gradient update: advantage, loss, aggregation, correction, optimiser, memory."""

    REQUIRES: ClassVar[frozenset[str]] = frozenset(
        {"rollouts.token_ids", "rollouts.behaviour_logprobs", "scores.correct", "scores.reward"}
    )
    PROVIDES: ClassVar[frozenset[str]] = COUNTS | {
        "stats.sum_correct",
        "stats.sum_reward",
        "stats.sum_abs_advantage",
        "stats.sum_abs_advantage_correct",
        "stats.sum_abs_centred",
        "stats.sum_abs_centred_correct",
    }

    strategy: Literal["policy_gradient"] = "policy_gradient"
    preset: str = "default"
    """Name of the preset that the values came from, for the record. Here the name alone changes nothing.

    `--set update.preset=NAME` writes out that preset's objective, and so does a file (`presets.expanded`).
    """
    baseline: Literal["none", "batch", "group", "loo", "critic"] = "group"
    scale: Literal["none", "group_std", "batch_std", "whiten"] = "group_std"
    eps: float = 1e-4
    """Added to the standard deviation that advantages are divided by."""
    min_group: int = 2
    """A group with fewer scores is dropped and counted."""
    ratio: Literal["token", "sequence"] = "token"
    objective: Literal["clip", "cispo", "reinforce"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    clip_dual: float | None = None
    cap: float | None = None
    """For CISPO: the largest importance weight."""
    aggregate: Literal["token_mean", "seq_token_mean", "seq_token_sum", "constant"] = "token_mean"
    max_length: int = 0
    """L_max for `aggregate=constant`, in tokens."""
    kl: Kl = field(default_factory=Kl)
    filter: Filter = field(default_factory=Filter)
    overlong: Overlong = field(default_factory=Overlong)
    mismatch: Mismatch = field(default_factory=Mismatch)
    epochs: int = 1
    minibatches: int = 1
    arm_weights: dict[str, float] = field(default_factory=dict)
    """Factor on the loss of an arm's rollouts. An arm that is not named has 1. Example: judging counts half as much as solving."""
    advantage: UserCode | None = None
    """A function of the user's in place of `baseline` and `scale`. `--set update.advantage=FILE.py:NAME` names it."""
    entropy_coef: float = 0.0
    gamma: float = 1.0
    lam: float = 1.0
    value_clip: float = 0.2
    vf_coef: float = 0.5
    critic_lr: float = 1e-5
    lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    total_steps: int = 0
    """Number of optimiser steps after which a linear or cosine schedule reaches 0. It must be at least that of the run."""
    micro_batch_tokens: int = 2048
    """Largest number of tokens in one forward pass, padding included."""
    packing: Literal["auto", "none", "sequence", "prefix"] = "auto"
    """How sequences lie in the rows of a forward pass (see `batching`).

    `none` has one sequence in a row, `sequence` several, and `prefix` several that share their prompt. The last two need a model
    that accepts 4-d masks. `auto` takes `prefix` if that costs less than `none`.
    """
    logprob_chunk: int = 0
    """Number of tokens whose logits exist at once. 0 takes as many as fit a fixed budget."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Number type of the forward pass. Weights and moments are float32, and float64 only for float64."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int | Literal["auto"] = 1
    """Number of processes on this machine that share the update. Each has one CUDA device, or a part of the CPU's cores.

    `auto` takes one for each CUDA device. With another number, sums of gradients are rounded differently.
    """
    moments: Literal["device", "host"] = "device"
    """Where Adam's moments wait while the policy samples, between inner steps that write no files.

    On the device they take 8 bytes for each trained parameter. In host memory they take none, but are copied at every step.
    """
    collective_timeout_s: float = 600.0
    """Longest time in seconds that one of several processes waits for the others before the update fails."""
    lora: LoraConfig | None = None
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether backward computes activations again, which saves memory. `auto` does so only if the update does not fit without."""
    allow_over_memory: bool = False
    """Start even if the predicted peak is above the free memory."""

    def __post_init__(self) -> None:
        _check_advantage(self)
        _check_loss(self)
        _check_optimiser(self)

    def provides(self) -> frozenset[str]:
        """Return the columns that are filled. A group of one sample has no group advantage."""
        return self.PROVIDES if self.min_group >= 2 else self.PROVIDES - {"stats.sum_abs_advantage_correct"}

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect now, each with the setting that would read it."""
        readers: dict[str, str] = {}
        if self.objective != "clip":
            readers |= dict.fromkeys(("clip_low", "clip_high"), "update.objective=clip")
        if self.advantage is not None:
            readers |= dict.fromkeys(
                ("baseline", "scale", "eps"), "the advantage of a preset, without update.advantage"
            )
        if self.baseline != "critic":
            readers |= dict.fromkeys(("gamma", "lam", "value_clip", "vf_coef", "critic_lr"), "update.baseline=critic")
        if self.aggregate != "constant":
            readers["max_length"] = "update.aggregate=constant"
        if self.schedule == "constant":
            readers["total_steps"] = "update.schedule=linear or cosine"
        if self.processes == 1:
            readers["collective_timeout_s"] = "update.processes above 1"
        else:
            readers["moments"] = "update.processes=1"
        return readers

    @property
    def reads(self) -> tuple[str, ...]:
        """The inputs on request: the user's code."""
        return ("update_code",) if self.advantage is not None or self.filter.function is not None else ()

    def run(self, ins: Ins, outs: Outs, ctx: Context) -> Metrics:
        """Train on one batch of scored rollouts, in this process or in processes that it starts."""
        if self.processes != 1:
            from instar.components.update.parallel.launch import improve_together

            return improve_together(ins, outs, self, ctx)
        from instar.components.update.policy_gradient import improve

        return improve(ins, outs, self, ctx)

    def steps_per_update(self, recipe: RecipeView) -> int:
        """Return the largest number of optimiser steps of one update. A minibatch without any signal is skipped."""
        del recipe
        return self.epochs * self.minibatches

    def check(self, recipe: RecipeView, name: str) -> None:
        """Refuse settings that have no effect in this recipe, or that contradict another piece of it."""
        del name
        _check_groups(self, recipe)
        check_schedule(recipe)
        _check_precision(self, recipe)
        _check_arm_weights(self, recipe)

    def explain(self, recipe: RecipeView) -> Sections:
        """State reward terms, advantage, filter, loss, optimiser and batch."""
        few = f"groups with fewer than {self.min_group} valid scores are dropped and counted"
        entropy = [f"l_it -= {self.entropy_coef:g} entropy_it"] if self.entropy_coef else []
        return {
            "reward": [*self.kl.explain_reward(), *self.overlong.explain()],
            "advantage": [f"A_i = the user's {self.advantage.entry}" if self.advantage else _advantage(self)],
            "filter": [f"{self.filter.explain()}; {few}"],
            "loss": [
                _ratio(self),
                _token_loss(self),
                *entropy,
                self.mismatch.explain(self.dtype),
                *self.kl.explain_loss(),
                *self.kl.explain_reference(recipe.reference),
            ],
            "aggregation": [AGGREGATES[self.aggregate].format(max_length=self.max_length)],
            "optimiser": [_optimiser(self), *filter(None, [outlook(recipe)])],
            "loop": _loop(recipe),
        }


Config: TypeAlias = PolicyGradientConfig | SequenceConfig


def _check_advantage(c: PolicyGradientConfig) -> None:
    grouped = c.baseline in ("group", "loo")
    need(not grouped or c.min_group >= 2, ">= 2", c.min_group, "min_group", "one sample has no group baseline")
    need(c.min_group >= 1, ">= 1", c.min_group, "min_group")
    need(
        c.scale != "group_std" or grouped,
        "group or loo",
        c.baseline,
        "baseline",
        "scale=group_std divides by the standard deviation of a group",
    )
    if c.baseline == "critic":
        need(
            c.scale in ("none", "whiten"),
            "none or whiten",
            c.scale,
            "scale",
            "a critic gives each token its own advantage",
        )
    if c.advantage is not None:
        why = "the user's advantage takes the place of what this changes"
        need(c.baseline != "critic", "none, batch, group or loo", c.baseline, "baseline", why)
        need(c.kl.place != "reward", "none or loss", c.kl.place, "kl.place", why)
        need(c.overlong.kind != "soft", "none or mask", c.overlong.kind, "overlong.kind", why)
    need(0 < c.gamma <= 1, "in (0, 1]", c.gamma, "gamma")
    need(0 <= c.lam <= 1, "in [0, 1]", c.lam, "lam")
    need(c.eps > 0, "> 0", c.eps, "eps", "a group of nearly equal rewards would be divided by almost 0")


def _check_loss(c: PolicyGradientConfig) -> None:
    sequence = c.ratio == "sequence"
    if sequence and c.objective == "clip":
        for name in ("clip_high", "clip_low"):
            more = "sequence ratios differ from 1 by about 1e-4, so a clip for tokens would never have an effect"
            need(getattr(c, name) <= 0.05, "<= 0.05", getattr(c, name), name, more)
    if c.objective == "cispo":
        good = c.cap is not None and math.isfinite(c.cap) and c.cap >= 1
        need(good, ">= 1", c.cap, "cap", "a cap below 1 scales every gradient down")
    else:
        need(c.cap is None, "none", c.cap, "cap", "it has an effect only with objective=cispo")
    plain = c.objective == "reinforce"
    for name in ("epochs", "minibatches"):
        one = "1, for one optimiser step per batch"
        need(not plain or getattr(c, name) <= 1, one, getattr(c, name), name, "reinforce has no ratio")
    need(not (plain and sequence), "token", c.ratio, "ratio", "reinforce has no ratio")
    bad = sorted(arm for arm, weight in c.arm_weights.items() if not (math.isfinite(weight) and weight >= 0))
    need(not bad, "a table of weights >= 0", bad, "arm_weights", "write 0 to measure an arm without training on it")
    need(c.clip_low > 0, "> 0", c.clip_low, "clip_low")
    need(c.clip_high > 0, "> 0", c.clip_high, "clip_high")
    if c.clip_dual is not None:
        need(c.objective == "clip", "none", c.clip_dual, "clip_dual", "it has an effect only with objective=clip")
        need(c.clip_dual > 1, "> 1", c.clip_dual, "clip_dual")
    if c.aggregate == "constant":
        need(c.max_length > 0, "> 0", c.max_length, "max_length", "aggregate=constant divides by it")


def _check_optimiser(c: PolicyGradientConfig) -> None:
    need(c.epochs >= 1, ">= 1", c.epochs, "epochs")
    need(c.minibatches >= 1, ">= 1", c.minibatches, "minibatches")
    need(c.lr > 0, "> 0", c.lr, "lr")
    need(all(0 <= beta < 1 for beta in c.betas), "two numbers in [0, 1)", c.betas, "betas")
    need(c.adam_eps > 0, "> 0", c.adam_eps, "adam_eps")
    need(c.weight_decay >= 0, ">= 0", c.weight_decay, "weight_decay", "a negative one lets the weights grow")
    need(c.warmup_steps >= 0, ">= 0", c.warmup_steps, "warmup_steps")
    need(c.critic_lr > 0, "> 0", c.critic_lr, "critic_lr")
    need(c.max_grad_norm > 0, "> 0", c.max_grad_norm, "max_grad_norm", "write a large number to switch clipping off")
    good = c.schedule == "constant" or c.total_steps > c.warmup_steps
    need(
        good,
        f"> warmup_steps, which is {c.warmup_steps}",
        c.total_steps,
        "total_steps",
        f"schedule={c.schedule} ends there",
    )
    several = c.processes == "auto" or c.processes >= 1
    need(
        several,
        "1 or more, or auto",
        c.processes,
        "processes",
        "write how many GPUs of this machine the update may use",
    )
    need(c.collective_timeout_s > 0, "> 0", c.collective_timeout_s, "collective_timeout_s")
    need(c.micro_batch_tokens >= 1, ">= 1", c.micro_batch_tokens, "micro_batch_tokens")
    need(c.logprob_chunk >= 0, ">= 0", c.logprob_chunk, "logprob_chunk")


def _check_groups(c: PolicyGradientConfig, recipe: RecipeView) -> None:
    """Refuse a `min_group` that drops every group, and more minibatches than groups. A group is never split."""
    drawn = recipe.curriculum
    if c.min_group > drawn.group_size:
        raise ConfigError(
            expected=f"update.min_group <= {drawn.group_size}, the rollouts of a prompt, because smaller groups are dropped",
            found=str(c.min_group),
            where="recipe.update.min_group",
            action=f"set update.min_group to at most {drawn.group_size}, or a larger curriculum.group_size",
        )
    most = (c.filter.keep_prompts or drawn.slots) + (drawn.generated.prompts if drawn.generated else 0)
    if c.minibatches > most:
        raise ConfigError(
            expected=f"update.minibatches <= {most}, the groups of a batch, because a group is never split",
            found=str(c.minibatches),
            where="recipe.update.minibatches",
            action=f"set update.minibatches to at most {most}, or a larger curriculum.prompts",
        )


def _check_precision(c: PolicyGradientConfig, recipe: RecipeView) -> None:
    """Refuse a trainer in bfloat16 with a sampler in float32.

    The trainer would round a float32 policy and the sampler would not, so they would compute different probabilities.
    """
    rollout = recipe.rollout
    if c.dtype == "bfloat16" and rollout.strategy == "sample" and rollout.engine.dtype != "bfloat16":
        raise ConfigError(
            expected="rollout.engine.dtype=bfloat16, as update.dtype, because both must round a float32 policy in the same way",
            found=f"'{rollout.engine.dtype}'",
            where="recipe.rollout.engine.dtype",
            action="set rollout.engine.dtype=bfloat16 (and evaluate.engine.dtype, test.engine.dtype), or update.dtype=float32",
        )


def _check_arm_weights(c: PolicyGradientConfig, recipe: RecipeView) -> None:
    """Refuse a weight for an arm that has no rollouts, because it would change nothing."""
    prep = recipe.dataset_prep
    if prep.strategy != "text":
        return
    names = [arm for arm, size in prep.pools.sizes().items() if size["train"]]
    names += KINDS if recipe.curriculum.generated is not None else ()
    unknown = sorted(set(c.arm_weights) - set(names))
    if unknown:
        raise ConfigError(
            expected="names of arms that are trained on",
            found=", ".join(unknown),
            where="recipe.update.arm_weights",
            action=nearest(unknown[0], names),
        )


def _advantage(c: PolicyGradientConfig) -> str:
    """State the formula of the advantage."""
    base = BASELINES[c.baseline]
    scales = {
        "none": f"A_i = {base}",
        "group_std": f"A_i = ({base}) / (std(group) + {c.eps:g})",
        "batch_std": f"A_i = ({base}) / (std(batch) + {c.eps:g})",
        "whiten": f"A = ({base}), centred and divided by (std over the batch's tokens + {c.eps:g})",
    }
    tail = f", gamma {c.gamma:g}, lam {c.lam:g}" if c.baseline == "critic" else "; 0 in groups of equal rewards"
    return scales[c.scale] + (tail if c.baseline in ("critic", "group", "loo") else "")


def _ratio(c: PolicyGradientConfig) -> str:
    """State the formula of the ratio."""
    if c.objective == "reinforce":
        return "no ratio: one optimiser step per batch"
    if c.ratio == "sequence":
        return "w_i = exp(mean_t(log pi - log old)), one ratio for the sequence, gradient through each token's log pi"
    return "w_it = pi(o_it) / old(o_it) up to e^10, old = the policy before this update, scored by the trainer"


def _token_loss(c: PolicyGradientConfig) -> str:
    """State the formula of the token loss."""
    if c.objective == "reinforce":
        return "l_it = -A log pi(o_it)"
    once = "; w is 1 in the only step of a batch, so no bound on it is reached" if c.epochs * c.minibatches == 1 else ""
    if c.objective == "cispo":
        return f"l_it = -sg[min(w, {c.cap:g})] A log pi(o_it){once}"
    text = f"l_it = -min(w A, clip(w, 1 - {c.clip_low:g}, 1 + {c.clip_high:g}) A)"
    return text + (f"; for A < 0 at most {c.clip_dual:g} |A|" if c.clip_dual is not None else "") + once


def _optimiser(c: PolicyGradientConfig) -> str:
    """State the optimiser and the number of its steps in one update."""
    end = f", {c.schedule} to 0 at {c.total_steps}" if c.schedule != "constant" else ""
    warm = f", {c.warmup_steps} warm-up steps" if c.warmup_steps else ""
    return (
        f"AdamW lr {c.lr:g}{warm}{end}, betas {c.betas[0]:g}/{c.betas[1]:g}, weight decay {c.weight_decay:g}, "
        f"gradient norm <= {c.max_grad_norm:g}; {c.epochs * c.minibatches} step(s) per batch ({c.epochs} epoch(s) x "
        f"{c.minibatches} minibatch(es)), arithmetic {c.dtype}{f'; {c.lora.explain()}' if c.lora else ''}"
    )


def _loop(recipe: RecipeView) -> list[str]:
    """State the updates of the run, and the rollouts that one of them sees."""
    drawn, rollout = recipe.curriculum, recipe.rollout
    more = f" ({drawn.slots} drawn)" if drawn.slots != drawn.prompts else ""
    sampled = (
        f"{drawn.prompts} prompts{more} x {drawn.group_size} rollouts = {drawn.prompts * drawn.group_size} rollouts"
    )
    limits = ""
    if rollout.strategy == "sample":
        limits = f" of at most {rollout.max_new_tokens} tokens at temperature {rollout.temperature:g}"
    return [
        f"{recipe.iterations} iterations x {recipe.inner_steps} inner steps = {recipe.iterations * recipe.inner_steps} "
        f"updates, clock '{recipe.clock}'; evaluation and gate after each iteration",
        f"per update {sampled}{limits}",
    ]
