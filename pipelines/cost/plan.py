"""Predicts what a recipe costs before it is submitted.

A prediction has the fixed seconds of each segment, the bytes of each class, and the settings that keep the overhead small: K, the
iterations in a run, or S, the inner steps of a fused segment.

Fixed seconds are all seconds on the longest chain of a segment in which no stage computes. They go to the start of pods, engines
and trainers, to moving bytes and to hashes. The nodes and their wiring come from the pipeline itself (`pipelines.trace`). Sizes
and rates come from `Constants`. docs/cost.md explains the model and says what it leaves out.
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
"""The predicted overhead may be at most this share. More is an error."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The prediction. `unroll_needed` (K) and `steps_needed` (S) are the smallest that keep the overhead within `LIMIT`, or None.

    One more inner step adds `step_work_s` seconds to a fused segment. It adds no fixed seconds.
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

    `work_s` is the measured work of one iteration in seconds. It replaces the prediction of work. With 0 GPUs it must be given.
    `clock` replaces the clock of the recipe. Raises `ConfigError` if an option is out of range or the recipe does not sample text.
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


def check(predicted: Plan, allow: bool = False) -> None:
    """Raise `ConfigError` if the predicted overhead is above `LIMIT`, unless `allow`. The error names a K or S that is enough."""
    if predicted.overhead <= LIMIT or allow:
        return
    iterate, recipe = predicted.segments["iterate"], predicted.case.recipe
    raise ConfigError(
        expected=f"a predicted overhead of at most {LIMIT:.0%}",
        found=f"{predicted.overhead:.1%}: {iterate.fixed_s:.0f} s fixed for {iterate.work_s:.0f} s of work",
        where=f"plan of {recipe.name} at {recipe.scale}, {recipe.clock}, unroll {predicted.unroll}",
        action=", or ".join(filter(None, [remedy(predicted), "--allow-overhead"])),
    )


def remedy(predicted: Plan) -> str:
    """Return the options that keep the overhead within `LIMIT`."""
    steps, ways = predicted.case.recipe.iterations * predicted.case.recipe.inner_steps, []
    if predicted.unroll_needed is not None:
        ways.append(f"--unroll {predicted.unroll_needed}")
    if predicted.steps_needed is not None:
        more = f" (more than the {steps} of the whole recipe)" if predicted.steps_needed > steps else ""
        ways.append(f"clock=fused with inner_steps={predicted.steps_needed}{more}")
    return " or ".join(ways)


def _unroll_needed(case: Case) -> int | None:
    one, two = (segment(case, "iterate", unroll) for unroll in (1, 2))
    unroll = _smallest(one, two)
    if unroll is None or unroll > MAX_UNROLL or one.tasks + (unroll - 1) * (two.tasks - one.tasks) > MAX_NODES:
        return None
    return unroll


def _fused(case: Case, steps: int) -> Case:
    return dataclasses.replace(case, recipe=dataclasses.replace(case.recipe, clock="fused", inner_steps=steps))


def _smallest(one: Segment, two: Segment) -> int | None:
    """Return the smallest K or S whose overhead is within `LIMIT`, or None if there is none.

    Fixed seconds and work grow linearly in both. So segments of 1 and of 2 are enough to compute it.
    """
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
            options = f"gpus {gpus}, model size {model_size_b}, work {work_s}"
            raise ConfigError(expected=expected, found=options, where="instar plan", action="correct the option")
