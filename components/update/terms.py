"""The tables inside the configuration of a policy-gradient update: KL, filter, length, mismatch, adapters.

Each checks its own fields, and says in `explain` what it adds to the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instar.components.sandbox.config import UserCode
from instar.config import out_of_range

KL_TERMS = {
    "k1": "k1 = log pi - log ref, detached",
    "k2": "k2 = (log pi - log ref)^2 / 2, gradient of KL(pi||ref)",
    "k3": "k3 = ref/pi - 1 - log(ref/pi), ref/pi up to e^10, gradient of KL(ref||pi)",
    "k3w": "k3 w = w (ref/pi - 1 - log(ref/pi)), w and ref/pi up to e^10, gradient of KL(pi||ref)",
}


@dataclass(frozen=True, kw_only=True)
class Kl:
    """A penalty that keeps the policy near the reference policy. It reads l = log pi - log ref.

    In the reward the only kind is k1 = l, without gradient. In the loss there are three: k2 = l^2/2 and k3w = w k3 have the
    gradient of KL(pi||ref), and k3 = exp(-l) - 1 + l has that of KL(ref||pi). k1 in the loss is refused, because its expected
    gradient is 0. Exponents are bounded at 10 nats. Beyond that a token has no gradient of this term.
    """

    place: Literal["none", "reward", "loss"] = "none"
    kind: Literal["k1", "k2", "k3", "k3w"] = "k3w"
    coef: float = 0.0

    def __post_init__(self) -> None:
        if self.place == "none":
            return
        need(self.coef > 0, "> 0", self.coef, "kl.coef", "or set update.kl.place=none")
        in_loss = self.place == "loss"
        need(
            not (in_loss and self.kind == "k1"),
            "k2, k3 or k3w in the loss",
            "k1",
            "kl.kind",
            "the expected gradient of k1 is 0",
        )
        need(
            in_loss or self.kind == "k1",
            "k1 in the reward",
            self.kind,
            "kl.kind",
            "k2 is biased and k3 has a heavy tail",
        )

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect now, each with the setting that would read it."""
        return dict.fromkeys(("kind", "coef"), "kl.place=loss or reward") if self.place == "none" else {}

    def explain_reward(self) -> list[str]:
        """State the term of the reward, if there is one."""
        return [f"r_i is lowered by {self.coef:g} {KL_TERMS[self.kind]}"] if self.place == "reward" else []

    def explain_loss(self) -> list[str]:
        """State the term of the loss. If there is no KL term at all, say so."""
        if self.place == "loss":
            return [f"l_it += {self.coef:g} {KL_TERMS[self.kind]}"]
        return ["no KL term"] if self.place == "none" else []

    def explain_reference(self, reference: Literal["initial", "iteration"]) -> list[str]:
        """State which policy the term compares with. Without a term there is nothing to state."""
        policy = {"initial": "that the evolution began with", "iteration": "that began the iteration"}[reference]
        return [f"ref = the policy {policy}"] if self.place != "none" else []


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which groups are trained on, judged by `correct`.

    `none` takes all groups. `zero_variance` leaves out groups whose answers are all right or all wrong. `band` takes groups whose
    mean is inside (low, high).
    """

    kind: Literal["none", "zero_variance", "band"] = "none"
    low: float = 0.0
    high: float = 1.0
    keep_prompts: int = 0
    """Train on at most this many of the groups that pass: the first in slot order. 0 takes all."""
    function: UserCode | None = None
    """A function of the user's that also has to take a group. `--set update.filter=FILE.py:NAME` names it."""

    def __post_init__(self) -> None:
        need(self.high <= 1, "<= 1", self.high, "filter.high")
        need(0 <= self.low < self.high, f"in [0, {self.high}), below filter.high", self.low, "filter.low")
        need(self.keep_prompts >= 0, ">= 0", self.keep_prompts, "filter.keep_prompts")

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect now, each with the setting that would read it."""
        return {} if self.kind == "band" else dict.fromkeys(("low", "high"), "filter.kind=band")

    def explain(self) -> str:
        """State which groups are trained on."""
        kinds = {
            "none": "all groups are trained on",
            "zero_variance": "groups whose answers are all right or all wrong are dropped",
            "band": f"only groups with {self.low:g} < mean(correct) < {self.high:g} are trained on",
        }
        own = f"; of those, the ones that the user's {self.function.entry} takes" if self.function else ""
        return kinds[self.kind] + own + (f"; of those, the first {self.keep_prompts}" if self.keep_prompts else "")


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """What happens to answers that reach the length limit.

    `none` trains on them. `mask` leaves them out of the loss. `soft` lowers the reward of answers that come near the limit (DAPO
    eq. 13).
    """

    kind: Literal["none", "mask", "soft"] = "none"
    max_length: int = 0
    """L of the soft penalty, in action tokens."""
    buffer: int = 0
    """C of the soft penalty: the penalty starts at L - C."""

    def __post_init__(self) -> None:
        if self.kind == "soft":
            need(self.max_length > 1, "> 1", self.max_length, "overlong.max_length", "kind=soft needs both lengths")
            need(0 < self.buffer < self.max_length, f"in [1, {self.max_length})", self.buffer, "overlong.buffer")

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect now, each with the setting that would read it."""
        return {} if self.kind == "soft" else dict.fromkeys(("max_length", "buffer"), "overlong.kind=soft")

    def explain(self) -> list[str]:
        """State what happens to answers that reach the length limit."""
        if self.kind == "soft":
            limit, start = self.max_length, self.max_length - self.buffer
            return [f"r_i += 0 up to {start} tokens, ({start} - T_i)/{self.buffer} up to {limit}, -1 above"]
        return ["truncated answers are left out of the loss and of its denominator"] if self.kind == "mask" else []


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The gap between trainer and sampler: rho = pi_trainer / pi_sampler of the sampled tokens.

    It is always measured, and a large gap is an error. `kind` says how the loss is corrected for it (see `mismatch`).
    """

    kind: Literal["off", "token_trunc", "token_mask", "seq_trunc", "seq_mask"] = "token_trunc"
    agg: Literal["sum", "mean"] = "mean"
    """For the kinds of sequences: `sum` is the product of rho, whose variance grows with length; `mean` its geometric mean."""
    low: float = 0.5
    high: float = 2.0
    alarm_mean: float = 0.05
    """Largest mean of |log rho| that is not an error, in nats. It counts twice if the update computes in bfloat16.

    In bfloat16 the mean over prompts less two standard errors is compared. The same holds for the share.
    """
    alarm_gap: float = 0.5
    """A token whose |log rho| is above this has a gap, in nats. It counts twice if the update computes in bfloat16."""
    alarm_share: float = 0.02
    """Largest share of tokens with a gap that is not an error."""

    def __post_init__(self) -> None:
        need(self.high >= 1, ">= 1", self.high, "mismatch.high", "an exact sampler has rho = 1")
        need(0 <= self.low <= 1, "in [0, 1]", self.low, "mismatch.low", "an exact sampler has rho = 1")
        need(self.alarm_mean > 0, "> 0", self.alarm_mean, "mismatch.alarm_mean")
        need(self.alarm_gap > 0, "> 0", self.alarm_gap, "mismatch.alarm_gap")
        need(0 <= self.alarm_share <= 1, "in [0, 1]", self.alarm_share, "mismatch.alarm_share")

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect now, each with the setting that would read it."""
        readers = {} if self.kind.startswith("seq") else {"agg": "mismatch.kind=seq_trunc or seq_mask"}
        if not self.kind.endswith("mask"):
            readers["low"] = "mismatch.kind=token_mask or seq_mask"
        return readers if self.kind != "off" else {**readers, "high": "a mismatch.kind other than off"}

    def explain(self, dtype: str) -> str:
        """State the correction in an update that computes in `dtype`; the measurement is always on."""
        twice = 2 if dtype == "bfloat16" else 1  # as `instar.components.update.mismatch.limits`
        limits = f"error when mean |log rho| > {twice * self.alarm_mean:g} or over {twice * self.alarm_gap:g}"
        limits += f" in > {self.alarm_share:.0%} of tokens"
        if self.kind == "off":
            return f"rho = old/sampler is measured, not corrected; {limits}"
        level, action = self.kind.split("_")
        what = "rho_it" if level == "token" else "product of rho" if self.agg == "sum" else "geometric mean of rho"
        band = f"{what} inside [{self.low:g}, {self.high:g}], 0 outside"
        return f"l_it *= {f'min({what}, {self.high:g})' if action == 'trunc' else band}, rho = old/sampler; {limits}"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): delta W = alpha / r * B A, on linear layers below the head."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Names of linear layers, or ends of names: `q_proj` is that layer in every block. Empty takes all linear layers."""

    def __post_init__(self) -> None:
        need(self.r >= 1, ">= 1", self.r, "lora.r")
        need(self.alpha >= 1, ">= 1", self.alpha, "lora.alpha")
        need(
            self.dropout == 0,
            "0",
            self.dropout,
            "lora.dropout",
            "with dropout the first ratio would not be 1",
        )
        for name in ("lm_head", "embed_tokens"):
            more = "the update reads head and embeddings as matrices, so an adapter on them would have no effect"
            need(name not in self.targets, "linear layers below the head", name, "lora.targets", more)

    def explain(self) -> str:
        """State what is trained instead of the weights."""
        layers = ", ".join(self.targets) or "all linear layers below the head"
        return f"LoRA r {self.r}, alpha {self.alpha:g} on {layers}"


def need(good: bool, expected: str, found: object, field_name: str, more: str = "") -> None:
    """Raise `ConfigError` for a field of the update, unless its value is `good`. `more` says why."""
    if not good:
        raise out_of_range(f"update.{field_name}", expected, found, more)
