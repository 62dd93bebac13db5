"""The loop. Every runner executes this one description: in process, as subprocesses, or traced into a pipeline.

    prepare -> evaluate -> for k = 1..K: curriculum -> rollout -> reward -> update -> evaluate -> gate -> test the champion

An iteration holds `inner_steps` passes over the four learning stages. Under the `rounds` clock each stage of each pass is
committed by itself; under `fused` the passes run inside one resident process and are committed together. Randomness is keyed
by the inner step, so both clocks give the same policy, bit for bit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from instar.artifact import ArmStats, Artifact, CurriculumState, Evaluation, Policy, Tasks, TrainerState
from instar.components.catalog import CURRICULUM, DATASET_PREP, EVALUATE, FUSED, REWARD, ROLLOUT, UPDATE
from instar.components.control.gate import Decision, GateConfig
from instar.components.control.inner import InnerConfig
from instar.components.evaluate.config import Config as EvaluateConfig
from instar.contract import Stage
from instar.errors import NoProgressError
from instar.pipelines.recipe import Recipe

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
C = TypeVar("C")


class Call(Protocol):
    """Run a stage on artifacts and return its outputs; memo and storage are the runner's business."""

    def __call__(
        self, stage: Stage[I, O, C], config: C, *, iteration: int, step: int, **inputs: Artifact | None
    ) -> O: ...


class Runner(Protocol):
    """What the loop needs from a runner."""

    def call(self, stage: Stage[I, O, C], config: C, *, iteration: int, step: int, **inputs: Artifact | None) -> O:
        """Run a stage; see `Call`."""
        ...

    def gate(self, iteration: int, evaluation: Evaluation, champion: Evaluation | None, config: GateConfig) -> Decision:
        """Decide on an evaluation and record the decision."""
        ...

    def num_updates(self) -> int:
        """Return the optimiser steps of the evolution so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything an iteration needs, as ledger-pinned artifacts. `None` only before the first inner step."""

    tasks: Tasks
    policy: Policy
    reference: Policy
    trainer: TrainerState | None = None
    curriculum: CurriculumState | None = None
    stats: ArmStats | None = None


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
    state = champion = prepare(runner.call, recipe)
    best = evaluate(runner.call, recipe.evaluate, state, None, iteration=0)
    base_test = evaluate(runner.call, recipe.test, state, None, iteration=0)
    runner.gate(0, best, None, recipe.gate)
    iteration, reason = 0, f"all {recipe.iterations} iterations done"
    for iteration in range(1, recipe.iterations + 1):
        state = learn(runner.call, recipe, state, iteration)
        evaluation = evaluate(runner.call, recipe.evaluate, state, best, iteration)
        decision = runner.gate(iteration, evaluation, best, recipe.gate)
        if decision.promote:
            champion, best = state, evaluation
        if decision.action == "rollback":
            state = dataclasses.replace(state, policy=champion.policy, trainer=champion.trainer)
        if decision.action == "stop":
            reason = decision.reason
            break
    if recipe.iterations and runner.num_updates() == 0:
        raise NoProgressError(
            expected="at least one optimiser step",
            found=f"none in {iteration} iterations: no group of rollouts had both right and wrong answers",
            where="evolution",
            action="start from a policy that solves some of the tasks some of the time, or add easier arms",
        )
    champion_test = evaluate(runner.call, recipe.test, champion, base_test, iteration)
    return Outcome(
        state=state,
        champion=champion,
        base_test=base_test,
        champion_test=champion_test,
        iterations=iteration,
        reason=reason,
    )


def prepare(call: Call, recipe: Recipe) -> State:
    """Make the task pools and the initial policy, which is also the reference of any KL term."""
    made = call(DATASET_PREP, recipe.dataset_prep, iteration=0, step=0)
    return State(tasks=made.tasks, policy=made.policy, reference=made.policy)


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
        state, policy=outs.policy, trainer=outs.trainer, curriculum=outs.curriculum, stats=outs.stats
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
    )
    acted = call(
        ROLLOUT,
        config.rollout,
        iteration=iteration,
        step=step,
        policy=state.policy,
        tasks=state.tasks,
        batch=chosen.batch,
    )
    scored = call(
        REWARD,
        config.reward,
        iteration=iteration,
        step=step,
        tasks=state.tasks,
        rollouts=acted.rollouts,
        policy=state.policy,
    )
    learned = call(
        UPDATE,
        config.update,
        iteration=iteration,
        step=step,
        policy=state.policy,
        trainer=state.trainer,
        batch=chosen.batch,
        rollouts=acted.rollouts,
        scores=scored.scores,
        reference=state.reference,
    )
    return dataclasses.replace(
        state, policy=learned.policy, trainer=learned.trainer, curriculum=chosen.state, stats=learned.stats
    )


def evaluate(
    call: Call, config: EvaluateConfig, state: State, against: Evaluation | None, iteration: int
) -> Evaluation:
    """Evaluate the policy, paired with the answers of an earlier policy to the same tasks."""
    made = call(EVALUATE, config, iteration=iteration, step=0, tasks=state.tasks, policy=state.policy, champion=against)
    return made.evaluation
