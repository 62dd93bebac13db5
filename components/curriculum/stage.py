"""Curriculum: decide which prompts the next step tries, from what the last update saw of each arm.

A pure function of (tasks, state, statistics, configuration, keys of the context): the same inputs give the same batch,
byte for byte. The order is the paper's (SEC section 3): first the statistics of the previous step move the values, then
the batch is drawn. Every slot draws its arm; the arm's cursor gives the prompt, without replacement inside a pass. Tasks that
the evolution made itself follow in slots of their own; no strategy sees them or their statistics.

Invariants: only tasks of split `train`; the state of an earlier step or, at step 0 only, none; statistics that belong
to the batch of that state. Anything else is an error: a curriculum that starts over looks like one that learns slowly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from instar.artifact import ArmStats, Batch, CurriculumState, Rollouts, Scores, Tasks
from instar.components.curriculum.config import Config
from instar.components.curriculum.cursor import take
from instar.components.curriculum.generated import due, read_cache, require_free_names, slots, split_stats
from instar.components.curriculum.memory import Memory, from_json, new_entry, reconcile, require_continues
from instar.components.curriculum.pool import Pools, load_pools
from instar.components.curriculum.protocol import Draw, measured, solve_rate
from instar.components.generated.templates import KINDS
from instar.config import to_dict
from instar.contract import ON_REQUEST, Context, Metrics, Stage
from instar.errors import LedgerError
from instar.rows import ArmStatsRow, BatchRow


@dataclass(frozen=True, kw_only=True)
class Ins:
    """Task pools; from step 1 on the state and the arm statistics of the step before, and the tasks the evolution made itself.

    On request also what the step before drew, did and scored, for a strategy that makes tasks of it.
    """

    tasks: Tasks
    curriculum: CurriculumState | None
    stats: ArmStats | None
    generated: Tasks | None = None
    batch: Annotated[Batch | None, ON_REQUEST] = None
    rollouts: Annotated[Rollouts | None, ON_REQUEST] = None
    scores: Annotated[Scores | None, ON_REQUEST] = None


@dataclass(frozen=True, kw_only=True)
class Outs:
    """The prompts to try and the memory to carry on; on request the tasks that wait, with those that the strategy made."""

    batch: Batch
    curriculum: CurriculumState
    generated: Annotated[Tasks | None, ON_REQUEST] = None


def curriculum(ins: Ins, outs: Outs, config: Config, ctx: Context) -> Metrics:
    """Observe, select, draw. Metrics: `<arm>/{q,p,share,solve_rate}`, of a generated kind `share` and `solve_rate`,
    `entropy` (nats), counts."""
    pools = load_pools(ins.tasks, ctx)
    require_free_names(pools.arms)
    stats = ins.stats.read() if ins.stats is not None else None
    memory = observed(recall(ins.curriculum, pools, config, ctx), stats, config)
    memory = reconcile(memory, pools.arms)
    strategy = config.build(pools.arms)
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


def recall(state: CurriculumState | None, pools: Pools, config: Config, ctx: Context) -> Memory:
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
            action="resume from the ledger; a state is made up at step 0 only",
        )
    arms = {arm.name: new_entry(arm) for arm in pools.arms}
    return Memory(step=-1, key=ctx.evolution, config=settings, values=config.build(pools.arms).state_dict(), arms=arms)


def observed(memory: Memory, stats: Sequence[ArmStatsRow] | None, config: Config) -> Memory:
    """Return the memory after the statistics of the last batch, over the arms of that batch."""
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
        return memory  # a batch of generated tasks alone says nothing about the arms, not even that they were left out
    strategy = config.build(memory.known())
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
