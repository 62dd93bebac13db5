"""What the gate compares, what it can see with the validation tasks of the recipe, and how often luck passes it."""

from __future__ import annotations

from instar.components.evaluate import power
from instar.components.evaluate.intervals import freedom, student
from instar.pipelines.recipe import Recipe
from instar.pipelines.validation import sizes

WORSE = -0.03
"""True difference whose chance of promotion is stated."""


def gate(recipe: Recipe) -> list[str]:
    """State the rule, the power of the validation set and the chance of promotion by luck."""
    e, found = recipe.evaluate, list(sizes(recipe).values())
    if recipe.gate.select == "last":
        return ["the newest policy is champion by configuration; comparisons are reported and decide nothing"]
    total, arms = sum(found), len(found)
    tasks = f"{total} validation tasks in {arms} arm{'s' if arms > 1 else ''}"
    rule = (
        f"promoted: the {e.confidence:.0%} interval of the paired difference to the champion lies above 0, or above -{e.margin:g} "
        "with an estimate that is not behind"
    )
    if not e.bounded:
        seen = student(e.confidence, freedom(found)) * sum(1 / n for n in found) ** 0.5 / arms
        return [rule, f"with {tasks} a gain is told from {seen:.2f} standard deviations of the paired differences"]
    least, usual = (100 * f(found, e.confidence) for f in (power.least_gain, power.usual_gain))
    return [
        rule,
        f"with {tasks} a gain below {least:.2g} points cannot be seen; one of {usual:.2g} points is seen four times of five, "
        f"where {power.LOST:.0%} of the tasks are lost",
        _equal(found, recipe),
        _luck(found, recipe),
    ]


def _equal(found: list[int], recipe: Recipe) -> str:
    left, margin = power.least_loss(found, recipe.evaluate.confidence), recipe.evaluate.margin
    if left <= margin:
        return f"equal answers everywhere rule out a loss of {100 * left:.2g} points: a policy can pass as equal"
    return f"equal answers everywhere leave room for a loss of {100 * left:.2g} points: none passes as equal without a gain"


def _luck(found: list[int], recipe: Recipe) -> str:
    e, looks = recipe.evaluate, max(1, recipe.iterations)
    once = power.luck(found, e.confidence, e.margin, WORSE)
    ever = power.at_least_once(once, looks)
    strict = power.at_least_once(power.luck(found, 0.99, e.margin, WORSE), looks)
    more = f" ({strict:.1%} with evaluate.confidence=0.99)" if e.confidence < 0.99 else ""
    return (
        f"luck: a policy that is truly {-100 * WORSE:g} points worse passes one look in {once:.1%}, at least one of {looks} looks "
        f"in at most {ever:.1%}{more}"
    )
