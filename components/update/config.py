"""Every choice of the policy update. Values that are known to train the wrong thing are refused here, with the reason.

The defaults are DAPO's loss (arXiv 2503.14476) without its filter and length penalty, with truncated importance weights
against a sampler that differs from the trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

from instar.components.columns import Piece
from instar.components.update.sequence.config import SequenceConfig
from instar.config import out_of_range


@dataclass(frozen=True, kw_only=True)
class Kl:
    """Penalty towards the reference policy; l = log pi - log ref.

    In the reward only k1 = l, detached. In the loss k2 = l^2/2 (gradient of KL(pi||ref)), k3 = exp(-l) - 1 + l
    (gradient of KL(ref||pi)) or k3w = k3 times the ratio (gradient of KL(pi||ref)). k1 in the loss has expected
    gradient 0. Exponents are bounded at 10 nats; beyond, a token has no gradient of that term.
    """

    place: Literal["none", "reward", "loss"] = "none"
    kind: Literal["k1", "k2", "k3", "k3w"] = "k3w"
    coef: float = 0.0

    def __post_init__(self) -> None:
        if self.place == "none":
            return
        _need(self.coef > 0, "> 0", self.coef, "kl.coef", "or set update.kl.place=none")
        in_loss = self.place == "loss"
        _need(
            not (in_loss and self.kind == "k1"),
            "k2, k3 or k3w in the loss",
            "k1",
            "kl.kind",
            "k1 has no expected gradient",
        )
        _need(
            in_loss or self.kind == "k1",
            "k1 in the reward",
            self.kind,
            "kl.kind",
            "k2 is biased and k3 has a heavy tail",
        )

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        return dict.fromkeys(("kind", "coef"), "kl.place=loss or reward") if self.place == "none" else {}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which groups reach the optimiser, judged on `correct`: all, those not all equal, or mean inside (low, high)."""

    kind: Literal["none", "zero_variance", "band"] = "none"
    low: float = 0.0
    high: float = 1.0
    keep_prompts: int = 0
    """Train on the first so many groups that pass, in slot order; 0 takes all."""

    def __post_init__(self) -> None:
        _need(self.high <= 1, "<= 1", self.high, "filter.high")
        _need(0 <= self.low < self.high, f"in [0, {self.high}), below filter.high", self.low, "filter.low")
        _need(self.keep_prompts >= 0, ">= 0", self.keep_prompts, "filter.keep_prompts")

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        return {} if self.kind == "band" else dict.fromkeys(("low", "high"), "filter.kind=band")


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """Answers that reach the length limit: trained on, left out of the loss, or penalised softly (DAPO eq. 13)."""

    kind: Literal["none", "mask", "soft"] = "none"
    max_length: int = 0
    """L of the soft penalty, in action tokens."""
    buffer: int = 0
    """C of the soft penalty: the penalty starts at L - C."""

    def __post_init__(self) -> None:
        if self.kind == "soft":
            _need(self.max_length > 1, "> 1", self.max_length, "overlong.max_length", "kind=soft needs both lengths")
            _need(0 < self.buffer < self.max_length, f"in [1, {self.max_length})", self.buffer, "overlong.buffer")

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        return {} if self.kind == "soft" else dict.fromkeys(("max_length", "buffer"), "overlong.kind=soft")


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Trainer against sampler: rho = pi_trainer / pi_sampler of the sampled tokens. Always measured."""

    kind: Literal["off", "token_trunc", "token_mask", "seq_trunc", "seq_mask"] = "token_trunc"
    agg: Literal["sum", "mean"] = "mean"
    """Sequence versions: product of rho (its variance grows with length) or geometric mean."""
    low: float = 0.5
    high: float = 2.0
    alarm_mean: float = 0.05
    """Largest mean of |log rho| that is not an error, in nats; twice as much where the update computes in bfloat16.

    There the lower end of the mean over prompts is compared, as is that of the share."""
    alarm_gap: float = 0.5
    """|log rho| of a token from which it counts as a gap, in nats; twice as much where the update computes in bfloat16."""
    alarm_share: float = 0.02
    """Largest share of tokens with a gap that is not an error."""

    def __post_init__(self) -> None:
        _need(self.high >= 1, ">= 1", self.high, "mismatch.high", "an exact sampler has rho = 1")
        _need(0 <= self.low <= 1, "in [0, 1]", self.low, "mismatch.low", "an exact sampler has rho = 1")
        _need(self.alarm_mean > 0, "> 0", self.alarm_mean, "mismatch.alarm_mean")
        _need(self.alarm_gap > 0, "> 0", self.alarm_gap, "mismatch.alarm_gap")
        _need(0 <= self.alarm_share <= 1, "in [0, 1]", self.alarm_share, "mismatch.alarm_share")

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        found = {} if self.kind.startswith("seq") else {"agg": "mismatch.kind=seq_trunc or seq_mask"}
        if not self.kind.endswith("mask"):
            found["low"] = "mismatch.kind=token_mask or seq_mask"
        return found if self.kind != "off" else {**found, "high": "a mismatch.kind other than off"}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): delta W = alpha / r * B A on linear layers below the head."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Names of layers, whole or their last parts; each has to name a linear layer of the model. Empty takes all of them."""

    def __post_init__(self) -> None:
        _need(self.r >= 1, ">= 1", self.r, "lora.r")
        _need(self.alpha >= 1, ">= 1", self.alpha, "lora.alpha")
        _need(
            self.dropout == 0,
            "0",
            self.dropout,
            "lora.dropout",
            "dropout makes the on-policy ratio differ from 1",
        )
        for name in ("lm_head", "embed_tokens"):
            more = "head and embeddings are used as matrices, beside which an adapter would not be seen"
            _need(name not in self.targets, "linear layers below the head", name, "lora.targets", more)


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig(Piece):
    """One update by policy gradient: advantage, loss, aggregation, correction, optimiser, memory."""

    REQUIRES: ClassVar[frozenset[str]] = frozenset(
        {"rollouts.token_ids", "rollouts.behaviour_logprobs", "scores.correct", "scores.reward"}
    )
    PROVIDES: ClassVar[frozenset[str]] = frozenset(
        {
            "stats.sum_correct",
            "stats.sum_reward",
            "stats.sum_abs_advantage",
            "stats.sum_abs_advantage_correct",
            "stats.sum_abs_centred",
            "stats.sum_abs_centred_correct",
        }
    )

    strategy: Literal["policy_gradient"] = "policy_gradient"
    preset: str = "default"
    """Name the values came from, kept for the record. `--set update.preset=NAME`, or a file, puts that preset's objective in
    place (`presets.expanded`); here the name alone changes nothing."""
    baseline: Literal["none", "batch", "group", "loo", "critic"] = "group"
    scale: Literal["none", "group_std", "batch_std", "whiten"] = "group_std"
    eps: float = 1e-4
    """Added to the standard deviation."""
    min_group: int = 2
    """Groups with fewer valid scores are dropped and counted."""
    ratio: Literal["token", "sequence"] = "token"
    objective: Literal["clip", "cispo", "reinforce"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    clip_dual: float | None = None
    cap: float | None = None
    """CISPO: absolute upper bound of the importance weight."""
    aggregate: Literal["token_mean", "seq_token_mean", "seq_token_sum", "constant"] = "token_mean"
    max_length: int = 0
    """L_max of `aggregate=constant`, in tokens."""
    kl: Kl = field(default_factory=Kl)
    filter: Filter = field(default_factory=Filter)
    overlong: Overlong = field(default_factory=Overlong)
    mismatch: Mismatch = field(default_factory=Mismatch)
    epochs: int = 1
    minibatches: int = 1
    arm_weights: dict[str, float] = field(default_factory=dict)
    """Factor on the loss of an arm's rollouts, 1 where none is given: for example how much judging counts beside solving."""
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
    """Optimiser steps after which a linear or cosine schedule reaches 0: those of the run, or more."""
    micro_batch_tokens: int = 2048
    """Rows times longest row of one forward pass."""
    packing: Literal["auto", "none", "sequence", "prefix"] = "auto"
    """One sequence per row, several, or several that share their prompt (needs a model that takes 4-d masks).

    `auto` takes `prefix` where sharing pays (`layout.choose`), else `none`.
    """
    logprob_chunk: int = 0
    """Tokens whose logits exist at once; 0 takes as many as fit a fixed budget."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic of the forward pass. Weights and moments are float32 (float64 for float64)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int | Literal["auto"] = 1
    """Processes on this machine that share the update, each with one CUDA device or one part of the CPU's cores.

    `auto`: one for each CUDA device. Sums of gradients round differently for another number.
    """
    moments: Literal["device", "host"] = "device"
    """Where Adam's moments wait while the policy samples between inner steps that write nothing.

    On the device they take 8 bytes a trained parameter; from host memory they travel there and back at every step.
    """
    collective_timeout_s: float = 600.0
    """Longest time that one of several processes waits for the others, in seconds, before the update fails."""
    lora: LoraConfig | None = None
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Compute activations again in backward; `auto`: only where the predicted peak does not fit what is free without it."""
    allow_over_memory: bool = False
    """Start although the predicted peak is above the memory that is free."""

    def __post_init__(self) -> None:
        _check_advantage(self)
        _check_loss(self)
        _check_optimiser(self)

    def provides(self) -> frozenset[str]:
        """Return the columns filled: one sample has no advantage among its like."""
        return self.PROVIDES if self.min_group >= 2 else self.PROVIDES - {"stats.sum_abs_advantage_correct"}

    def ineffective_fields(self) -> dict[str, str]:
        """Return fields without effect, and what would read them."""
        found: dict[str, str] = {}
        if self.objective != "clip":
            found |= dict.fromkeys(("clip_low", "clip_high"), "update.objective=clip")
        if self.baseline != "critic":
            found |= dict.fromkeys(("gamma", "lam", "value_clip", "vf_coef", "critic_lr"), "update.baseline=critic")
        if self.aggregate != "constant":
            found["max_length"] = "update.aggregate=constant"
        if self.schedule == "constant":
            found["total_steps"] = "update.schedule=linear or cosine"
        if self.processes == 1:
            found["collective_timeout_s"] = "update.processes above 1"
        else:
            found["moments"] = "update.processes=1"
        return found


Config: TypeAlias = PolicyGradientConfig | SequenceConfig


def _check_advantage(c: PolicyGradientConfig) -> None:
    grouped = c.baseline in ("group", "loo")
    _need(not grouped or c.min_group >= 2, ">= 2", c.min_group, "min_group", "one sample has no group baseline")
    _need(c.min_group >= 1, ">= 1", c.min_group, "min_group")
    _need(
        c.scale != "group_std" or grouped,
        "group or loo",
        c.baseline,
        "baseline",
        "scale=group_std divides by the group's std",
    )
    if c.baseline == "critic":
        _need(
            c.scale in ("none", "whiten"),
            "none or whiten",
            c.scale,
            "scale",
            "a critic's advantages differ by token",
        )
    _need(0 < c.gamma <= 1, "in (0, 1]", c.gamma, "gamma")
    _need(0 <= c.lam <= 1, "in [0, 1]", c.lam, "lam")
    _need(c.eps > 0, "> 0", c.eps, "eps", "a nearly constant group would explode")


def _check_loss(c: PolicyGradientConfig) -> None:
    sequence = c.ratio == "sequence"
    if sequence and c.objective == "clip":
        for name in ("clip_high", "clip_low"):
            more = "sequence ratios move by 1e-4; a token clip never binds"
            _need(getattr(c, name) <= 0.05, "<= 0.05", getattr(c, name), name, more)
    if c.objective == "cispo":
        good = c.cap is not None and math.isfinite(c.cap) and c.cap >= 1
        _need(good, ">= 1", c.cap, "cap", "a cap below 1 scales every gradient down")
    else:
        _need(c.cap is None, "none", c.cap, "cap", "only objective=cispo reads it")
    plain = c.objective == "reinforce"
    for name in ("epochs", "minibatches"):
        one = "1, for one optimiser step per batch"
        _need(not plain or getattr(c, name) <= 1, one, getattr(c, name), name, "reinforce has no ratio")
    _need(not (plain and sequence), "token", c.ratio, "ratio", "reinforce has no ratio")
    bad = sorted(arm for arm, weight in c.arm_weights.items() if not (math.isfinite(weight) and weight >= 0))
    _need(not bad, "a table of weights >= 0", bad, "arm_weights", "write 0 to measure an arm without training on it")
    _need(c.clip_low > 0, "> 0", c.clip_low, "clip_low")
    _need(c.clip_high > 0, "> 0", c.clip_high, "clip_high")
    if c.clip_dual is not None:
        _need(c.objective == "clip", "none", c.clip_dual, "clip_dual", "only objective=clip reads it")
        _need(c.clip_dual > 1, "> 1", c.clip_dual, "clip_dual")
    if c.aggregate == "constant":
        _need(c.max_length > 0, "> 0", c.max_length, "max_length", "aggregate=constant divides by it")


def _check_optimiser(c: PolicyGradientConfig) -> None:
    _need(c.epochs >= 1, ">= 1", c.epochs, "epochs")
    _need(c.minibatches >= 1, ">= 1", c.minibatches, "minibatches")
    _need(c.lr > 0, "> 0", c.lr, "lr")
    _need(all(0 <= beta < 1 for beta in c.betas), "two numbers in [0, 1)", c.betas, "betas")
    _need(c.adam_eps > 0, "> 0", c.adam_eps, "adam_eps")
    _need(c.weight_decay >= 0, ">= 0", c.weight_decay, "weight_decay", "a negative one lets the weights grow")
    _need(c.warmup_steps >= 0, ">= 0", c.warmup_steps, "warmup_steps")
    _need(c.critic_lr > 0, "> 0", c.critic_lr, "critic_lr")
    _need(c.max_grad_norm > 0, "> 0", c.max_grad_norm, "max_grad_norm", "write a large number to never clip")
    good = c.schedule == "constant" or c.total_steps > c.warmup_steps
    _need(
        good,
        f"> warmup_steps, which is {c.warmup_steps}",
        c.total_steps,
        "total_steps",
        f"schedule={c.schedule} ends there",
    )
    several = c.processes == "auto" or c.processes >= 1
    _need(several, "1 or more, or auto", c.processes, "processes", "write how many GPUs of this machine to use")
    _need(c.collective_timeout_s > 0, "> 0", c.collective_timeout_s, "collective_timeout_s")
    _need(c.micro_batch_tokens >= 1, ">= 1", c.micro_batch_tokens, "micro_batch_tokens")
    _need(c.logprob_chunk >= 0, ">= 0", c.logprob_chunk, "logprob_chunk")


def _need(good: bool, expected: str, found: object, field_name: str, more: str = "") -> None:
    if not good:
        raise out_of_range(f"update.{field_name}", expected, found, more)
