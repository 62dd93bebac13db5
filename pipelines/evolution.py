"""The loop. Every runner executes this one description: in process, as subprocesses, or traced into a pipeline.

    prepare -> evaluate -> for k = 1..K: curriculum -> rollout -> reward -> update -> evaluate -> gate -> test the champion

An iteration holds `inner_steps` passes over the four learning stages. Under the `rounds` clock each stage of each pass is
committed by itself. Under `fused` the passes run inside one resident process and are committed together. Random numbers depend
on the number of the inner step alone, so both clocks give the same policy, bit for bit.

What one stage leaves for another is an entry of `instar.state.State`, which is declared once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from instar.artifact import Artifact, Evaluation, Source
from instar.components.catalog import CURRICULUM, DATASET_PREP, EVALUATE, GATHER, REWARD, ROLLOUT, UPDATE
from instar.components.dataset_prep.stage import reads_sources
from instar.components.evaluate.config import Config as EvaluateConfig
from instar.components.rollout.gather import GatherConfig
from instar.contract import Inputs, Shard, Stage
from instar.errors import NoProgressError
from instar.pipelines.fused import fused_stage
from instar.pipelines.gate import Decision, GateConfig
from instar.pipelines.recipe import Recipe
from instar.pipelines.step import StepConfig
from instar.state import Champion, State, carried, reads, written

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
C = TypeVar("C")


class Call(Protocol):
    """Run a stage on artifacts and return its outputs; memo and storage are the runner's business.

    `step` keys the randomness of the stage, counted in inner steps over the whole evolution. `None` says that every iteration
    uses the same random numbers: the data, and the paired samples of an evaluation.
    """

    def __call__(
        self,
        stage: Stage[I, O, C],
        config: C,
        *,
        iteration: int,
        step: int | None = None,
        shard: Shard | None = None,
        **inputs: Inputs,
    ) -> O: ...


class Runner(Protocol):
    """What the loop needs from a runner."""

    @property
    def call(self) -> Call:
        """Run a stage; see `Call`."""
        ...

    def gate(self, config: GateConfig, candidate: Position, before: Position | None) -> Position:
        """Decide on the candidate's evaluation, record the decision and return what follows; see `settle`."""
        ...

    def num_updates(self) -> int:
        """Return the optimiser steps of the evolution so far."""
        ...

    def sources(self) -> tuple[Source, ...]:
        """Return the evolutions that this one learns from, as its opening entry pins them."""
        ...

    def brought(self) -> dict[str, Artifact]:
        """Return the entries of lifetime `brought` that are there, as the opening entry pins them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where an evolution stands between two iterations: the state that goes on and the best policy that passed the gate."""

    iteration: int
    state: State
    champion: Champion
    champion_evaluation: Evaluation
    """The champion's evaluation on the gate's split."""
    base_test: Evaluation
    stopped: str = ""
    """Why the gate ended the evolution; empty while it goes on."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an evolution ended: last state, the best policy that passed the gate, and why it stopped."""

    state: State
    champion: Champion
    base_test: Evaluation
    champion_test: Evaluation
    iterations: int
    reason: str


def evolve(runner: Runner, recipe: Recipe) -> Outcome:
    """Run `recipe` to its end: all iterations done, or the gate says stop."""
    *_, last = positions(runner, recipe)
    return finish(runner, recipe, last)


def positions(runner: Runner, recipe: Recipe) -> Iterator[Position]:
    """Yield where the evolution stands after its beginning and after every iteration."""
    position = begin(runner, recipe)
    yield position
    while position.iteration < recipe.iterations and not position.stopped:
        position = iterate(runner, recipe, position)
        yield position


def begin(runner: Runner, recipe: Recipe) -> Position:
    """Make data and the initial policy, measure it, and make it the first champion."""
    prepared = prepare(runner, recipe)
    state, evaluation = watch(runner.call, recipe, prepared, None, iteration=0)
    base_test = evaluate(runner.call, recipe.test, prepared, None, iteration=0).evaluation
    return runner.gate(recipe.gate, _candidate(state, evaluation, base_test, 0), None)


def iterate(runner: Runner, recipe: Recipe, position: Position) -> Position:
    """Learn for one iteration, evaluate, and let the gate say what follows."""
    iteration = position.iteration + 1
    state = learn(runner.call, recipe, referenced(position.state, recipe), iteration)
    state, evaluation = watch(runner.call, recipe, state, position.champion_evaluation, iteration)
    return runner.gate(recipe.gate, _candidate(state, evaluation, position.base_test, iteration), position)


def _candidate(state: State, evaluation: Evaluation, base_test: Evaluation, iteration: int) -> Position:
    """Return the position of an evolution that promotes what it has just evaluated."""
    return Position(
        iteration=iteration,
        state=state,
        champion=state.champion(),
        champion_evaluation=evaluation,
        base_test=base_test,
    )


def settle(decision: Decision, candidate: Position, before: Position | None) -> Position:
    """Apply a gate's decision: the candidate's policy becomes champion or not, and learning goes on from it or not."""
    kept = candidate
    if before is not None and not decision.promote:
        kept = dataclasses.replace(candidate, champion=before.champion, champion_evaluation=before.champion_evaluation)
    if decision.action == "rollback":
        kept = dataclasses.replace(kept, state=kept.state.rolled_back(kept.champion))
    return dataclasses.replace(kept, stopped=decision.reason if decision.action == "stop" else "")


def finish(runner: Runner, recipe: Recipe, position: Position) -> Outcome:
    """Test the champion against the base policy on tasks that chose nothing."""
    if position.iteration and runner.num_updates() == 0:
        raise NoProgressError(
            expected="at least one optimiser step",
            found=f"none in {position.iteration} iterations: no group of rollouts had both right and wrong answers",
            where="evolution",
            action="start from a policy that solves some of the tasks some of the time, or add easier arms",
        )
    champion = position.state.rolled_back(position.champion)
    tested = evaluate(runner.call, recipe.test, champion, position.base_test, position.iteration)
    return Outcome(
        state=position.state,
        champion=position.champion,
        base_test=position.base_test,
        champion_test=tested.evaluation,
        iterations=position.iteration,
        reason=position.stopped or f"all {recipe.iterations} iterations done",
    )


def prepare(runner: Runner, recipe: Recipe) -> State:
    """Make tasks, logged data and the initial policy, which is also the first reference of any KL term."""
    sources = runner.sources() if reads_sources(recipe.dataset_prep) else ()
    brought: dict[str, Any] = runner.brought()
    read = {name: brought.get(name) for name in reads(DATASET_PREP, recipe.dataset_prep)}
    prepared = runner.call(DATASET_PREP, recipe.dataset_prep, iteration=0, sources=sources, **read)
    made: dict[str, Any] = {
        "tasks": prepared.tasks,
        "data": prepared.data,
        "policy": prepared.policy,
        "reference": prepared.policy,
    }
    return State(**made, **brought)


def referenced(state: State, recipe: Recipe) -> State:
    """Return the state with which an iteration begins: its policy is the reference, if the recipe says so."""
    return state if recipe.reference == "initial" else dataclasses.replace(state, reference=state.policy)


def learn(call: Call, recipe: Recipe, state: State, iteration: int) -> State:
    """Run the inner steps of one iteration, under either clock."""
    first = (iteration - 1) * recipe.inner_steps
    if recipe.clock == "rounds":
        for step in range(first, first + recipe.inner_steps):
            state = inner_step(call, recipe.inner(), state, iteration, step)
        return state
    config, inner = recipe.fused(), stages(recipe.inner())
    inputs = {name: getattr(state, name) for name in carried(inner)}
    outs = call(FUSED, config, iteration=iteration, step=first, **inputs)
    return dataclasses.replace(state, **{name: getattr(outs, name) for name in written(inner)})


def stages(config: StepConfig) -> list[tuple[Stage[Any, Any, Any], Any]]:
    """Return the four learning stages with their configurations, in the order of a pass."""
    return [
        (CURRICULUM, config.curriculum),
        (ROLLOUT, config.rollout),
        (REWARD, config.reward),
        (UPDATE, config.update),
    ]


def inner_step(call: Call, config: StepConfig, state: State, iteration: int, step: int) -> State:
    """Choose tasks, act, score, learn: the pass that both clocks share."""

    def run(stage: Stage[Any, Any, Any], settings: Any, before: State) -> State:
        outs = call(stage, settings, iteration=iteration, step=step, **before.inputs(stage, settings))
        return before.after(stage, settings, outs)

    state = run(CURRICULUM, config.curriculum, state)
    state = act(call, config, state, iteration, step)
    state = run(REWARD, config.reward, state)
    return run(UPDATE, config.update, state)


def act(call: Call, config: StepConfig, state: State, iteration: int, step: int) -> State:
    """Let the policy act on the drawn tasks, in `rollout.shards` parts that may run side by side."""
    total, inputs = config.rollout.shards, state.inputs(ROLLOUT, config.rollout)
    outs = [
        call(ROLLOUT, config.rollout, iteration=iteration, step=step, shard=Shard(number, total), **inputs)
        for number in range(total)
    ]
    if total == 1:
        return state.after(ROLLOUT, config.rollout, outs[0])
    parts = tuple(out.rollouts for out in outs)
    gathered = call(GATHER, GatherConfig(), iteration=iteration, step=step, batch=state.batch, parts=parts)
    return state.after(GATHER, GatherConfig(), gathered)


def watch(
    call: Call, recipe: Recipe, state: State, baseline: Evaluation | None, iteration: int
) -> tuple[State, Evaluation]:
    """Evaluate an iteration's policy. What the evaluation feeds back is in the state that it returns; a test feeds nothing back."""
    outs = evaluate(call, recipe.evaluate, state, baseline, iteration)
    return state.after(EVALUATE, recipe.evaluate, outs), outs.evaluation


def evaluate(call: Call, config: EvaluateConfig, state: State, baseline: Evaluation | None, iteration: int) -> Any:
    """Evaluate the policy, paired with the answers that another policy, the baseline, gave to the same tasks."""
    return call(EVALUATE, config, iteration=iteration, **state.inputs(EVALUATE, config), baseline=baseline)


FUSED = fused_stage(inner_step)
"""The stage that runs the inner steps of one iteration in one process, under the `fused` clock."""
