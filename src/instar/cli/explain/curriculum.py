"""How tasks are drawn, for every strategy and for both kinds of task: prompts to answer, slices of logged episodes."""

from __future__ import annotations

from typing import Literal

from instar.components.curriculum.config import (
    BestConfig,
    Config,
    LearnabilityConfig,
    OrderedConfig,
    ProximalConfig,
    ReverseConfig,
    SecConfig,
    ThompsonConfig,
    UniformConfig,
)

Thing = Literal["prompt", "slice"]
ORDERS = {
    "prompt": ("easy to hard", "hard to easy"),
    "slice": ("lowest return first", "highest return first"),
}


def curriculum(c: Config, thing: Thing) -> list[str]:
    """State how tasks, `thing`s, are drawn."""
    match c:
        case SecConfig():
            return _sec(c, thing)
        case UniformConfig():
            return [f"every training {thing} once per pass ({c.strategy})"]
        case BestConfig():
            return [
                f"only the best arms: whole ones by mean level, highest first, until they hold {c.share:.0%} of the "
                f"training {thing}s; each in proportion to its size, nothing is adapted"
            ]
        case OrderedConfig() | ReverseConfig():
            way = ORDERS[thing][isinstance(c, ReverseConfig)]
            return [f"one level after another, {way}, an equal share of {c.steps} steps each"]
        case ThompsonConfig():
            rule = f"Beta posterior of the solve rate theta, evidence x {c.decay:g} a step"
            rule += "; P = P(theta (1 - theta) is best)"
        case ProximalConfig():
            rule = f"Q moves by {c.alpha:g} to the solve rate; P ~ exp(Q (1 - Q) / {c.tau:g})"
        case LearnabilityConfig():
            rule = f"p moves by {c.alpha:g} to the solve rate; P ~ p (1 - p)"
    return [f"{rule}, no arm below {c.floor:g}"]


def _sec(c: SecConfig, thing: Thing) -> list[str]:
    s = c.switches
    signals = {"loss_change": "mean fall of the arm's loss over the update, on the same windows"}
    signal = signals.get(s.signal, f"mean {s.signal} of the arm's rollouts")
    if c.objective == "progress":
        signal = "change of the mean reward"
    rules = {
        "boltzmann": f"P ~ exp(Q / {c.tau:g})",
        "normalized_q": "P ~ max(Q, 0.01)",
        "greedy": f"best arm, {c.epsilon:g} of the draws uniform",
    }
    absent = f"Q x {1 - c.alpha:g}" if s.absent == "decay" else "Q unchanged"
    return [
        f"Q[arm] += {c.alpha:g} (signal - Q[arm]), signal = {signal}; not drawn: {absent}; Q starts at {s.q0:g}",
        f"{rules[c.method]}{f', no arm below {s.floor:g}' if s.floor else ''}; one draw per {thing} (mode {c.mode})",
    ]
