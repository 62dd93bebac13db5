"""Curriculum: it decides which tasks the next step tries, from the statistics of each arm in the last update.

An arm is a group of tasks, for example all tasks of one level. The stage first updates the values of the arms with the statistics
of the previous step, and then draws the batch, as in SEC section 3. Every slot of the batch draws an arm. The cursor of the arm
then gives the task: no task comes twice before all tasks of the arm came once. Tasks that the evolution made itself follow in
slots of their own. No strategy sees them or their statistics.

The stage is a pure function of the tasks, the state, the statistics, the configuration and the keys of the context: the same inputs
give the same batch, byte for byte.

Three things are checked. Only tasks of split `train` are drawn. There must be a state of an earlier step, except at step 0. The
statistics must belong to the batch that this state drew. Anything else is an error. Otherwise a curriculum that lost its memory
and started again would only look like one that learns slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from instar.artifact import ArmStats, Batch, Code, CurriculumState, Rollouts, Scores, Tasks
from instar.components.curriculum.config import Config
from instar.components.curriculum.cursor import take
from instar.components.curriculum.generated import due, read_cache, require_free_names, slots, split_stats
from instar.components.curriculum.memory import Memory, from_json, new_entry, reconcile, require_continues
from instar.components.curriculum.own import builder
from instar.components.curriculum.pool import Arm, Pools, load_pools
from instar.components.curriculum.protocol import Draw, Strategy, measured, solve_rate
from instar.components.generated.templates import KINDS
from instar.config import to_dict
from instar.contract import ON_REQUEST, Context, Metrics, Stage
from instar.errors import LedgerError
from instar.rows import ArmStatsRow, BatchRow

Build: TypeAlias = Callable[[Sequence[Arm]], Strategy]
"""Makes a fresh strategy over arms."""


@dataclass(frozen=True, kw_only=True)
class Ins:
    """The task pools. From step 1 on also the state and the arm statistics of the step before, and the tasks that the evolution
    made itself.

    A strategy that makes tasks can request the batch, the rollouts and the scores of the step before. A strategy of the user's
    requests its code.
    """

    tasks: Tasks
    curriculum: CurriculumState | None
    stats: ArmStats | None
    generated: Tasks | None = None
    batch: Annotated[Batch | None, ON_REQUEST] = None
    rollouts: Annotated[Rollouts | None, ON_REQUEST] = None
    scores: Annotated[Scores | None, ON_REQUEST] = None
    curriculum_code: Annotated[Code | None, ON_REQUEST] = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The tasks to try, and the memory to carry on. A strategy that makes tasks can also write the generated tasks that wait."""

    batch: Batch
    curriculum: CurriculumState
    generated: Annotated[Tasks | None, ON_REQUEST] = None


def curriculum(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Observe the statistics, select arms, draw tasks.

    Metrics: `<arm>/{q,p,share,solve_rate}`, for a generated kind `<kind>/{share,solve_rate}`, `entropy` in nats, and counts.
    """
    pools = load_pools(ins.tasks, ctx)
    require_free_names(pools.arms)
    stats = ins.stats.read() if ins.stats is not None else None
    build = builder(config, ins.curriculum_code, ctx)
    memory = observed(recall(ins.curriculum, pools, config, ctx, build), stats, config, build)
    memory = reconcile(memory, pools.arms)
    strategy = build(pools.arms)
    strategy.load_state_dict(memory.values)
    extra = due(read_cache(ins.generated, config.generated), config.generated, sum(memory.generated.values()))
    alone = bool(extra) and config.generated is not None and config.generated.mode == "alternate"
    draw = Draw(evolution=ctx.evolution, step=ctx.step, key=memory.key)
    pairs = [] if alone else strategy.select(config.slots, draw)
    batch = draw_tasks(pairs, pools, memory, config, ctx.step)
    outs.batch.write([*batch, *slots(extra, len(batch), ctx.step, config.group_size)])
    memory.values, memory.step = strategy.state_dict(), ctx.step
    memory.generated = dict(sorted(Counter(task.arm for task in extra).items()))
    outs.curriculum.write_json("state.json", memory.to_json())
    return strategy.metrics() | _counts(memory, stats or [], config)


def recall(state: CurriculumState | None, pools: Pools, config: Config, ctx: Context, build: Build) -> Memory:
    """Return the memory of the previous step, or a fresh one at step 0."""
    settings = to_dict(config)
    if state is not None:
        memory = from_json(state.read_json("state.json"))
        require_continues(memory, settings, ctx.step)
        return memory
    if ctx.step != 0:
        raise LedgerError(
            expected=f"a curriculum state to continue at step {ctx.step}",
            found="none",
            where="curriculum.curriculum",
            action="resume from the ledger, because only step 0 starts without a state",
        )
    arms = {arm.name: new_entry(arm) for arm in pools.arms}
    return Memory(step=-1, key=ctx.evolution, config=settings, values=build(pools.arms).state_dict(), arms=arms)


def observed(memory: Memory, stats: Sequence[ArmStatsRow] | None, config: Config, build: Build) -> Memory:
    """Return the memory after the strategy has seen the statistics of the last batch. It has the arms of that batch."""
    first = memory.step < 0
    if stats is None:
        if not first and config.requires():
            raise _stats_error(f"the arm statistics of step {memory.step}", "none")
        return memory
    if first:
        raise _stats_error("no statistics before the first batch", f"statistics of {len(stats)} arms")
    mine, generated = split_stats(stats)
    drawn_of = {name: arm.drawn for name, arm in memory.arms.items()} | memory.generated
    for row in [*mine, *generated]:
        drawn = drawn_of.get(row.arm, 0)
        if row.num_prompts > drawn:
            raise _stats_error(f"at most {drawn} groups of arm {row.arm}", f"{row.num_prompts}")
    if not any(arm.drawn for arm in memory.arms.values()):
        return memory  # the batch was all generated tasks: it says nothing about the arms, so they do not count as left out
    strategy = build(memory.known())
    strategy.load_state_dict(memory.values)
    strategy.observe(mine)
    memory.values = strategy.state_dict()
    return memory


def _stats_error(expected: str, found: str) -> LedgerError:
    return LedgerError(
        expected=expected, found=found, where="curriculum.stats", action="pass the statistics of the batch drawn last"
    )


def draw_tasks(
    pairs: Sequence[tuple[str, float]], pools: Pools, memory: Memory, config: Config, step: int
) -> list[BatchRow]:
    """Return one row per slot and advance the cursors of `memory`."""
    shares, queues = Counter(arm for arm, _ in pairs), {}
    for arm, entry in memory.arms.items():
        indices, cursor = take(memory.key, arm, entry.size, entry.cursor, shares[arm])
        entry.epoch, entry.position = cursor.epoch, cursor.position
        entry.drawn, entry.visits = shares[arm], entry.visits + shares[arm]
        queues[arm] = iter([pools.task_ids[arm][i] for i in indices])
    return [
        BatchRow(
            slot=slot,
            task_id=next(queues[arm]),
            arm=arm,
            probability=probability,
            group_id=f"{step:06d}-{slot:04d}",
            group_size=config.group_size,
        )
        for slot, (arm, probability) in enumerate(pairs)
    ]


def _counts(memory: Memory, stats: Sequence[ArmStatsRow], config: Config) -> Metrics:
    out: Metrics = {f"{name}/share": arm.drawn / config.slots for name, arm in memory.arms.items()}
    seen = measured(stats)
    out |= {f"{name}/solve_rate": solve_rate(row) for name, row in seen.items() if row.sum_correct is not None}
    out |= {f"{name}/loss": row.sum_loss / row.num_rollouts for name, row in seen.items() if row.sum_loss is not None}
    if config.generated is not None:
        out |= {f"{kind}/share": memory.generated.get(kind, 0) / config.generated.prompts for kind in KINDS}
    out["num_prompts"] = float(sum(arm.drawn for arm in memory.arms.values()) + sum(memory.generated.values()))
    out["num_arms"] = float(len(memory.arms))
    out["num_arms_without_scores"] = float(sum(r.num_prompts > 0 and r.num_rollouts == 0 for r in stats))
    return out


STAGE = Stage("curriculum", Ins, Outs, Config, curriculum, version=4)
