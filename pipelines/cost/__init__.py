"""`instar plan`: what a plan costs before it is submitted.

case        a recipe, the size of the model, the number of GPUs; `constants` has every measured or assumed number
   |
   v
run         the graph of each segment, its longest chain, and the seconds of each node:
               `work` what a stage computes, `sizes` the bytes that it moves
   |
   v
plan        seconds and bytes of the whole evolution, and the smallest number of iterations in a run that keeps the overhead low
   |
   v
text        the page that is printed
"""

from __future__ import annotations

from instar.pipelines.cost.constants import Constants
from instar.pipelines.cost.plan import LIMIT, Plan, check, plan, remedy
from instar.pipelines.cost.text import render
from instar.pipelines.recipe import Recipe
from instar.terminal import say

__all__ = ["LIMIT", "Constants", "Plan", "check", "main", "plan", "remedy", "render"]


def main(recipe: Recipe, gpus: int, model_size: float, work_s: float | None, unroll: int, allow: bool) -> int:
    """Print the plan. Then raise `ConfigError` if its overhead is too large and not allowed, or return the exit code 0."""
    predicted = plan(recipe, gpus=gpus, model_size_b=model_size, work_s=work_s, unroll=unroll)
    say(render(predicted))
    check(predicted, allow)
    return 0
