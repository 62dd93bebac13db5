"""The loop. Every runner executes this one description: in process, as subprocesses, or traced into a pipeline.

    prepare -> evaluate -> for k = 1..K: curriculum -> rollout -> reward -> update -> evaluate -> gate -> test the champion

An iteration holds `inner_steps` passes over the four learning stages. Under the `rounds` clock each stage of each pass is
committed by itself; under `fused` the passes run inside one resident process and are committed together. Randomness is keyed
by the inner step, so both clocks give the same policy, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from instar.artifact import (
    ArmStats,
    Batch,
    CurriculumState,
    Evaluation,
    Policy,
    Rollouts,
    Tasks,
    TrainerState,
)
from instar.components.catalog import CURRICULUM, DATASET_PREP, EVALUATE, FUSED, GATHER, REWARD, ROLLOUT, UPDATE
from instar.components.control.gate import Decision, GateConfig
from instar.components.control.inner import InnerConfig
from instar.components.evaluate.config import Config as EvaluateConfig
from instar.components.rollout.gather import GatherConfig
from instar.contract import Inputs, Shard, Stage
from instar.errors import NoProgressError
from instar.pipelines.recipe import Recipe

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

    def gate(self, config: GateConfig, candidate: Lineage, before: Lineage | None) -> Lineage:
        """Decide on the candidate's evaluation, record the decision and return what follows; see `settle`."""
        ...

    def num_updates(self) -> int:
        """Return the optimiser steps of the evolution so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything an iteration needs, as ledger-pinned artifacts. `None` only before the first inner step."""

    tasks: Tasks
    data: Rollouts
    """Logged trajectories; empty for recipes that sample all they learn from."""
    policy: Policy
    reference: Policy
    trainer: TrainerState | None = None
    curriculum: CurriculumState | None = None
    stats: ArmStats | None = None
    derived: Tasks | None = None
    """Tasks that the evolution made out of its own rollouts and has not tried yet."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where an evolution stands between two iterations: the state that goes on and the best policy that passed the gate."""

    iteration: int
    state: State
    champion: State
    best: Evaluation
    """The champion's evaluation on the gate's split."""
    base_test: Evaluation
    stopped: str = ""
    """Why the gate ended the evolution; empty while it goes on."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an evolution ended: last state, the best policy that passed the gate, and why it stopped."""

    state: State
    champion: State
    base_test: Evaluation
    champion_test: Evaluation
    iterations: int
    reason: str


def evolve(runner: Runner, recipe: Recipe) -> Outcome:
    """Run `recipe` to its end: all iterations done, or the gate says stop."""
    *_, last = lineages(runner, recipe)
    return finish(runner, recipe, last)


def lineages(runner: Runner, recipe: Recipe) -> Iterator[Lineage]:
    """Yield where the evolution stands after its beginning and after every iteration."""
    lineage = begin(runner, recipe)
    yield lineage
    while lineage.iteration < recipe.iterations and not lineage.stopped:
        lineage = iterate(runner, recipe, lineage)
        yield lineage


def begin(runner: Runner, recipe: Recipe) -> Lineage:
    """Make data and the initial policy, measure it, and make it the first champion."""
    state = prepare(runner.call, recipe)
    evaluation = evaluate(runner.call, recipe.evaluate, state, None, iteration=0)
    base_test = evaluate(runner.call, recipe.test, state, None, iteration=0)
    first = Lineage(iteration=0, state=state, champion=state, best=evaluation, base_test=base_test)
    return runner.gate(recipe.gate, first, None)


def iterate(runner: Runner, recipe: Recipe, lineage: Lineage) -> Lineage:
    """Learn for one iteration, evaluate, and let the gate say what follows."""
    iteration = lineage.iteration + 1
    state = learn(runner.call, recipe, lineage.state, iteration)
    evaluation = evaluate(runner.call, recipe.evaluate, state, lineage.best, iteration)
    candidate = Lineage(iteration=iteration, state=state, champion=state, best=evaluation, base_test=lineage.base_test)
    return runner.gate(recipe.gate, candidate, lineage)


def settle(decision: Decision, candidate: Lineage, before: Lineage | None) -> Lineage:
    """Apply a gate's decision: the candidate's policy becomes champion or not, and learning goes on from it or not."""
    kept = candidate
    if before is not None and not decision.promote:
        kept = dataclasses.replace(candidate, champion=before.champion, best=before.best)
    if decision.action == "rollback":
        back = dataclasses.replace(kept.state, policy=kept.champion.policy, trainer=kept.champion.trainer)
        kept = dataclasses.replace(kept, state=back)
    return dataclasses.replace(kept, stopped=decision.reason if decision.action == "stop" else "")


def finish(runner: Runner, recipe: Recipe, lineage: Lineage) -> Outcome:
    """Test the champion against the base policy on tasks that chose nothing."""
    if lineage.iteration and runner.num_updates() == 0:
        raise NoProgressError(
            expected="at least one optimiser step",
            found=f"none in {lineage.iteration} iterations: no group of rollouts had both right and wrong answers",
            where="evolution",
            action="start from a policy that solves some of the tasks some of the time, or add easier arms",
        )
    champion_test = evaluate(runner.call, recipe.test, lineage.champion, lineage.base_test, lineage.iteration)
    return Outcome(
        state=lineage.state,
        champion=lineage.champion,
        base_test=lineage.base_test,
        champion_test=champion_test,
        iterations=lineage.iteration,
        reason=lineage.stopped or f"all {recipe.iterations} iterations done",
    )


def prepare(call: Call, recipe: Recipe) -> State:
    """Make tasks, logged data and the initial policy, which is also the reference of any KL term."""
    made = call(DATASET_PREP, recipe.dataset_prep, iteration=0)
    return State(tasks=made.tasks, data=made.data, policy=made.policy, reference=made.policy)


def learn(call: Call, recipe: Recipe, state: State, iteration: int) -> State:
    """Run the inner steps of one iteration, under either clock."""
    first = (iteration - 1) * recipe.inner_steps
    if recipe.clock == "rounds":
        for step in range(first, first + recipe.inner_steps):
            state = inner_step(call, recipe.inner(), state, iteration, step)
        return state
    inputs: dict[str, Any] = {f.name: getattr(state, f.name) for f in dataclasses.fields(State)}
    outs = call(FUSED, recipe.fused(), iteration=iteration, step=first, **inputs)
    return dataclasses.replace(
        state,
        policy=outs.policy,
        trainer=outs.trainer,
        curriculum=outs.curriculum,
        stats=outs.stats,
        derived=outs.derived,
    )


def inner_step(call: Call, config: InnerConfig, state: State, iteration: int, step: int) -> State:
    """Choose tasks, act, score, learn: the pass that both clocks share."""
    chosen = call(
        CURRICULUM,
        config.curriculum,
        iteration=iteration,
        step=step,
        tasks=state.tasks,
        state=state.curriculum,
        stats=state.stats,
        derived=state.derived,
    )
    rollouts = act(call, config, state, chosen.batch, iteration, step)
    scored = call(
        REWARD,
        config.reward,
        iteration=iteration,
        step=step,
        tasks=state.tasks,
        rollouts=rollouts,
        policy=state.policy,
        data=state.data,
        derived=state.derived,
    )
    learned = call(
        UPDATE,
        config.update,
        iteration=iteration,
        step=step,
        policy=state.policy,
        trainer=state.trainer,
        batch=chosen.batch,
        rollouts=rollouts,
        scores=scored.scores,
        reference=state.reference,
        data=state.data,
    )
    return dataclasses.replace(
        state,
        policy=learned.policy,
        trainer=learned.trainer,
        curriculum=chosen.state,
        stats=learned.stats,
        derived=scored.derived,
    )


def act(call: Call, config: InnerConfig, state: State, batch: Batch, iteration: int, step: int) -> Rollouts:
    """Let the policy act on the drawn tasks, in `rollout.shards` parts that may run side by side."""
    total = config.rollout.shards
    parts = tuple(
        call(
            ROLLOUT,
            config.rollout,
            iteration=iteration,
            step=step,
            shard=Shard(number, total),
            policy=state.policy,
            tasks=state.tasks,
            batch=batch,
            data=state.data,
            derived=state.derived,
        ).rollouts
        for number in range(total)
    )
    if total == 1:
        return parts[0]
    return call(GATHER, GatherConfig(), iteration=iteration, step=step, batch=batch, parts=parts).rollouts


def evaluate(
    call: Call, config: EvaluateConfig, state: State, against: Evaluation | None, iteration: int
) -> Evaluation:
    """Evaluate the policy, paired with the answers of an earlier policy to the same tasks."""
    made = call(EVALUATE, config, iteration=iteration, tasks=state.tasks, policy=state.policy, champion=against)
    return made.evaluation
