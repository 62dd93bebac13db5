"""What a plan costs before it is submitted: fixed seconds per segment, bytes per class, and the K or S that keeps overhead small.

Fixed seconds are everything on a segment's longest chain of nodes that is no work of a stage: pods, engine and trainer
starts, bytes, hashes. Tasks and their wiring are those of the pipeline itself (`pipelines.trace`), sizes and rates are
`Constants`, each with its source. docs/cost.md explains the model and says what it leaves out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from instar.errors import ConfigError
from instar.pipelines.cost.case import Case, text_pieces
from instar.pipelines.cost.constants import Constants
from instar.pipelines.cost.run import Segment, segment
from instar.pipelines.cost.sizes import traffic
from instar.pipelines.recipe import Recipe
from instar.pipelines.trace import KINDS, MAX_NODES, MAX_UNROLL, trace

LIMIT = 0.05
"""Largest predicted overhead share that is not an error."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The prediction. `unroll_needed` (K) and `steps_needed` (S, fused) keep overhead within `LIMIT`; None: none does.

    `step_work_s` is what one more inner step adds to a fused segment, which has no fixed seconds of its own.
    """

    case: Case
    unroll: int
    segments: Mapping[str, Segment]
    stored: Mapping[str, float]
    pulled: Mapping[str, float]
    unroll_needed: int | None
    steps_needed: int | None
    step_work_s: float

    @property
    def overhead(self) -> float:
        """Share of an `iterate` segment in which no stage works."""
        return self.segments["iterate"].overhead


def plan(
    recipe: Recipe,
    *,
    gpus: int,
    model_size_b: float,
    work_s: float | None = None,
    unroll: int = 1,
    clock: Literal["rounds", "fused"] | None = None,
    constants: Constants | None = None,
) -> Plan:
    """Predict a segment of `unroll` iterations for a language model of `model_size_b` billion parameters.

    `work_s` are measured seconds of work of one iteration; they replace the throughput model, and 0 GPUs need them. `clock`
    overrides the recipe's. Raises `ConfigError` for options out of range and for a recipe that does not sample text.
    """
    text_pieces(recipe)
    _check_options(gpus, model_size_b, work_s)
    constants = constants or Constants()
    recipe = dataclasses.replace(recipe, clock=clock or recipe.clock)
    case = Case(recipe=recipe, gpus=gpus, params=model_size_b * 1e9, scale=1.0, constants=constants)
    if recipe.clock == "rounds" and recipe.rollout.shards == 1:
        rollout = dataclasses.replace(case.text.rollout, shards=min(case.machines, recipe.curriculum.slots))
        case = dataclasses.replace(case, recipe=dataclasses.replace(recipe, rollout=rollout))
    if work_s is not None:
        case = dataclasses.replace(case, scale=work_s / segment(case, "iterate").work_s)
    stored, pulled = traffic(trace(case.recipe, "iterate"), case)
    one, two = (segment(_fused(case, steps), "iterate", unroll) for steps in (1, 2))
    return Plan(
        case=case,
        unroll=unroll,
        segments={kind: segment(case, kind, unroll) for kind in KINDS},
        stored=stored,
        pulled=pulled,
        unroll_needed=_unroll_needed(case),
        steps_needed=_smallest(one, two),
        step_work_s=(two.work_s - one.work_s) / unroll,
    )


def check(made: Plan, allow: bool = False) -> None:
    """Raise `ConfigError`, naming the K or S that would do, when the predicted overhead is above `LIMIT`; not if `allow`."""
    if made.overhead <= LIMIT or allow:
        return
    found, recipe = made.segments["iterate"], made.case.recipe
    raise ConfigError(
        expected=f"a predicted overhead of at most {LIMIT:.0%}",
        found=f"{made.overhead:.1%}: {found.fixed_s:.0f} s fixed for {found.work_s:.0f} s of work",
        where=f"plan of {recipe.name} at {recipe.scale}, {recipe.clock}, unroll {made.unroll}",
        action=f"{remedy(made)}, or --allow-overhead",
    )


def remedy(made: Plan) -> str:
    """Return what to change to keep overhead within `LIMIT`."""
    steps, found = made.case.recipe.iterations * made.case.recipe.inner_steps, []
    if made.unroll_needed is not None:
        found.append(f"--unroll {made.unroll_needed}")
    if made.steps_needed is not None:
        more = f" (more than the {steps} of the whole recipe)" if made.steps_needed > steps else ""
        found.append(f"clock=fused with inner_steps={made.steps_needed}{more}")
    return " or ".join(found)


def _unroll_needed(case: Case) -> int | None:
    one, two = (segment(case, "iterate", unroll) for unroll in (1, 2))
    found = _smallest(one, two)
    if found is None or found > MAX_UNROLL or one.tasks + (found - 1) * (two.tasks - one.tasks) > MAX_NODES:
        return None
    return found


def _fused(case: Case, steps: int) -> Case:
    return dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, clock="fused", inner_steps=steps))


def _smallest(one: Segment, two: Segment) -> int | None:
    """Return the smallest K or S within `LIMIT`: seconds are straight lines in both, which the segments of 1 and 2 give."""
    first, second = (LIMIT / (1 - LIMIT) * s.work_s - s.fixed_s for s in (one, two))
    if first >= 0:
        return 1
    return 1 + math.ceil(-first / (second - first) - 1e-9) if second > first else None


def _check_options(gpus: int, model_size_b: float, work_s: float | None) -> None:
    good = {
        "--gpus >= 0": gpus >= 0,
        "--model-size > 0, in billions of parameters": 0 < model_size_b < math.inf,
        "--work-s > 0 (0 GPUs need it)": gpus > 0 if work_s is None else 0 < work_s < math.inf,
    }
    for expected, holds in good.items():
        if not holds:
            found = f"gpus {gpus}, model size {model_size_b}, work {work_s}"
            raise ConfigError(expected=expected, found=found, where="instar plan", action="correct the option")
