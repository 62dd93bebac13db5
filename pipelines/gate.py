"""The gate decides whether the loop goes on, stops, goes back to the champion or holds, and whether the new policy becomes
champion.

A decision is a pure function of the evaluation summaries so far. It reads the `val` split only. `id` and `ood` are test sets: a
policy that was selected on them would be reported on the data that chose it.

Nothing is promoted when the interval cannot tell which policy is better. A policy that is equal within the margin, but behind in
the point estimate, is not promoted either: a row of small losses, each inside the margin, could add up. Nothing is promoted under
an alarm of the evaluation, for example that of a judge that decayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instar.components.piece import RecipeView
from instar.config import out_of_range
from instar.errors import ConfigError, ContractError

Action: TypeAlias = Literal["continue", "stop", "rollback", "hold"]
SPLIT = "val"
WORSE = -0.03
"""`explain` states how often a policy is promoted that is truly worse by this difference."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """When to stop and when to go back.

    Scores are macro means over arms. The score 1 means that every answer is right, or that the return is that of the expert.
    """

    target: float | None = None
    """Stop when a promoted policy reaches this score."""
    patience: int = 0
    """Stop after this many evaluations without an improvement; 0 never does."""
    min_delta: float = 0.0
    """A score is an improvement if it is more than this above the best score before."""
    rollback_margin: float = 0.05
    """Go back to the champion when the whole interval of the difference lies below minus this."""
    select: Literal["best", "last"] = "best"
    """`best`: a policy becomes champion if the comparison says that it is not worse, and its point estimate is not behind.

    `last`: the newest policy is always champion, and nothing is rolled back. Papers that report the last checkpoint need this.
    """

    def __post_init__(self) -> None:
        if self.target is not None:
            _require(0.0 < self.target <= 1.0, "target", "in (0, 1]", self.target)
        _require(self.patience >= 0, "patience", ">= 0", self.patience)
        _require(0.0 <= self.min_delta < 1.0, "min_delta", "in [0, 1)", self.min_delta)
        _require(0.0 <= self.rollback_margin <= 1.0, "rollback_margin", "in [0, 1]", self.rollback_margin)

    def ineffective_fields(self) -> dict[str, str]:
        """Return the fields that have no effect, each with what would give it an effect."""
        ineffective = {} if self.patience else {"min_delta": "gate.patience"}
        return ineffective if self.select == "best" else {**ineffective, "rollback_margin": "gate.select=best"}

    def check(self, recipe: RecipeView) -> None:
        """Raise `ConfigError` if the gate could never tell which policy is better.

        Such a gate would hold at every iteration, and the base policy would stay champion.
        """
        sizes = recipe.evaluate.validation_sizes(recipe)
        if self.select == "last" or not recipe.iterations or SPLIT not in recipe.evaluate.splits or not sizes:
            return
        small = min(sizes, key=lambda arm: sizes[arm])
        least, total = recipe.evaluate.min_pairs, sum(sizes.values())
        if total < least or sizes[small] < 2:
            raise ConfigError(
                expected=f"at least {least} validation tasks and two in every arm: the gate compares policies on them",
                found=f"{total}, of which {sizes[small]} in arm '{small}'",
                where="recipe.evaluate",
                action="raise the val pools (or val_episodes) or evaluate.tasks_per_arm, lower evaluate.min_pairs, or set "
                "gate.select=last, which compares nothing",
            )

    def explain(self, recipe: RecipeView) -> list[str]:
        """State the rule, the power of the validation set, and the chance of promotion by luck."""
        if self.select == "last":
            return ["the newest policy is champion by configuration; comparisons are reported and decide nothing"]
        e = recipe.evaluate
        rule = (
            f"promoted: the {e.confidence:.0%} interval of the paired difference to the champion lies above 0, or it lies above "
            f"-{e.margin:g} and the estimate is not below 0"
        )
        return [rule, *power_lines(recipe)]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the loop does next, why, and whether the evaluated policy becomes champion."""

    action: Action
    reason: str
    promote: bool


def decide(history: Sequence[Mapping[str, Any]], config: GateConfig) -> Decision:
    """Decide on the last of `history`, the `summary.json` objects of all evaluations, oldest first.

    Under an alarm the loop holds and promotes nothing, not even with `select="last"`. Only a rollback comes before an alarm.
    Raises `ContractError` if a summary has no `val` split. No other split may take its place.
    """
    scores = [float(_val(summary)["score"]) for summary in history]
    comparison = _val(history[-1])["comparison"]
    if alarm := "; ".join(str(item["reason"]) for item in history[-1].get("alarms") or ()):
        reason = f"alarm: {alarm}"
        if config.select == "best" and _fell(comparison, config):
            return Decision(action="rollback", reason=f"{_rolled_back(comparison, config)}; {reason}", promote=False)
        return _advance(scores, config, promote=False, reason=reason, hold=True)
    if config.select == "last":
        return _advance(scores, config, promote=True, reason="the newest policy is champion by configuration")
    if comparison is None:
        return _advance(scores, config, promote=True, reason="first evaluation: champion by default")
    verdict = comparison["verdict"]
    if verdict == "unknown":
        gap = comparison["difference"] or 0.0
        ahead = f"looks better ({gap:+.3f}), but could not tell" if gap > 0.0 else "could not tell"
        return _advance(scores, config, promote=False, reason=f"{ahead}: {comparison['reason']}", hold=True)
    span = _span(comparison)
    if verdict == "worse":
        if _fell(comparison, config):
            return Decision(action="rollback", reason=_rolled_back(comparison, config), promote=False)
        return _advance(scores, config, promote=False, reason=f"worse than the champion: {span}", hold=True)
    if verdict == "equal" and comparison["difference"] < 0.0:
        return _advance(scores, config, promote=False, reason=f"not worse, but not ahead: {span}")
    return _advance(scores, config, promote=True, reason=f"{verdict} against the champion: {span}")


def _fell(comparison: Mapping[str, Any] | None, config: GateConfig) -> bool:
    """Return whether the whole interval of the difference to the champion lies below minus the margin."""
    return comparison is not None and comparison["verdict"] == "worse" and comparison["high"] < -config.rollback_margin


def _rolled_back(comparison: Mapping[str, Any], config: GateConfig) -> str:
    return f"worse than the champion by more than {config.rollback_margin:g}: {_span(comparison)}"


def _span(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['difference']:+.3f} [{comparison['low']:+.3f}, {comparison['high']:+.3f}]"


def _advance(
    scores: Sequence[float], config: GateConfig, *, promote: bool, reason: str, hold: bool = False
) -> Decision:
    """Stop at the target or on a plateau, otherwise continue (or hold)."""
    now = scores[-1]
    if promote and config.target is not None and now >= config.target:
        return Decision(action="stop", reason=f"target reached: {now:.3f} >= {config.target:g}; {reason}", promote=True)
    before, recent = scores[: -config.patience or None], scores[-config.patience :]
    if config.patience and before and max(recent) <= max(before) + config.min_delta:
        best = max(before)
        reason = f"plateau: best {best:.3f}, no improvement in {config.patience} evaluations; {reason}"
        return Decision(action="stop", reason=reason, promote=promote)
    return Decision(action="hold" if hold else "continue", reason=reason, promote=promote)


def _val(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    splits: Mapping[str, Mapping[str, Any]] = summary["splits"]
    if SPLIT not in splits:
        raise ContractError(
            expected=f"an evaluation with the split '{SPLIT}'",
            found=f"the splits {sorted(splits)}",
            where="Evaluation:summary.json:splits",
            action="add val to evaluate.splits: no policy is selected on a test split",
        )
    return splits[SPLIT]


def power_lines(recipe: RecipeView) -> list[str]:
    """State which gains and losses can be seen on the validation tasks: gains first."""
    from instar.components.evaluate import power
    from instar.components.evaluate.intervals import freedom, student

    sizes = list(recipe.evaluate.validation_sizes(recipe).values())
    e, total, arms = recipe.evaluate, sum(sizes), len(sizes)
    tasks = f"{total} validation tasks in {arms} arm{'s' if arms > 1 else ''}"
    if not e.bounded:
        seen = student(e.confidence, freedom(sizes)) * sum(1 / n for n in sizes) ** 0.5 / arms
        return [
            f"with {tasks} a gain is seen if it is at least {seen:.2f} standard deviations of the paired differences"
        ]
    least, usual = (100 * f(sizes, e.confidence) for f in (power.least_gain, power.usual_gain))
    loss = power.least_loss(sizes, e.confidence)
    equal = f"equal answers everywhere cannot rule out a loss of {100 * loss:.2g} points: no policy passes as equal without a gain"
    if loss <= e.margin:
        equal = f"equal answers everywhere rule out a loss of {100 * loss:.2g} points: a policy can pass as equal"
    return [
        f"with {tasks}, a gain below {least:.2g} points cannot be seen; a gain of {usual:.2g} points is seen four times of five, "
        f"if {power.LOST:.0%} of the tasks are lost",
        equal,
        _luck(sizes, recipe),
    ]


def _luck(sizes: Sequence[int], recipe: RecipeView) -> str:
    """State how often a policy is promoted although it is worse."""
    from instar.components.evaluate import power

    e, looks = recipe.evaluate, max(1, recipe.iterations)
    once = power.luck(sizes, e.confidence, e.margin, WORSE)
    ever = power.at_least_once(once, looks)
    strict = power.at_least_once(power.luck(sizes, 0.99, e.margin, WORSE), looks)
    more = f" ({strict:.1%} with evaluate.confidence=0.99)" if e.confidence < 0.99 else ""
    return (
        f"luck: a policy that is truly {-100 * WORSE:g} points worse passes one look with a chance of {once:.1%}, "
        f"and at least one of {looks} looks with a chance of at most {ever:.1%}{more}"
    )


def _require(holds: bool, field: str, expected: str, found: object) -> None:
    if not holds:
        raise out_of_range(f"gate.{field}", expected, found)
