"""Episodes in the simulator, as evaluation rows: a policy is asked for a return, and is scored by the return that it reached.

The score of an episode is (return - random) / (expert - random). The task holds both reference returns. It also fixes the start
state and the target, and the policy acts deterministically. So two policies can be compared episode by episode. Tasks of pool
`probe` ask for other returns. They are summarised beside the splits, and no verdict rests on them.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instar.artifact import Policy, Tasks
from instar.components.continuous.actor import open_actor
from instar.components.environments import quiet
from instar.components.evaluate.attempts import Attempts, choose_tasks
from instar.components.evaluate.episodes import Condition, Episode, run_episodes
from instar.components.evaluate.simulators import open_environments, time_limit
from instar.components.evaluate.summary import split_summary
from instar.components.task_table import resident_tables
from instar.contract import Context
from instar.errors import ContractError
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.continuous.config import ContinuousTask
    from instar.components.evaluate.config import SimulateConfig

PROBE = "probe"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """The content of an evaluation task: the condition, and the two returns whose scores are 0 and 1."""

    task: TaskRow
    condition: Condition
    random: float
    expert: float

    def score(self, total: float) -> float:
        """Return the normalised score of a return."""
        return (total - self.random) / (self.expert - self.random)


def simulate(
    tasks: Sequence[TaskRow], pools: Mapping[str, Tasks], policy: Policy, config: SimulateConfig, ctx: Context
) -> Attempts:
    """Return one episode per task. With `config.probes`, also return one per task of pool `probe`.

    In the result, `notes["returns"]` is split -> arm -> mean return and mean target. `notes["probes"]` is the summary of pool
    `probe`. Raises `ContractError` for tasks that are not conditions of the policy's environment. Also raises what
    `open_environments` and `run_episodes` raise.
    """
    model = open_actor(policy, config.device, ctx, "evaluate")
    probes = choose_tasks(pools, (PROBE,), config, ctx) if config.probes and _has_probes(pools, ctx) else []
    assigned = [read_task(task, model.task) for task in [*tasks, *probes]]
    with quiet():
        environments = open_environments(model.task, min(config.max_envs, len(assigned)))
        try:
            check_length(time_limit(environments[0]), getattr(model.arch, "max_timestep", None), model.task.env)
            episodes = run_episodes(
                model,
                model.task,
                [assignment.condition for assignment in assigned],
                environments,
                window=config.context == "window",
                delayed=config.delayed,
                device=model.device.type,
                heartbeat=lambda done: ctx.heartbeat(f"{done} episodes", {}),
            )
        finally:
            for environment in environments:
                environment.close()
    rows = [_row(assignment, episode) for assignment, episode in zip(assigned, episodes, strict=True)]
    by_split = returns(assigned, episodes)
    out = Attempts(rows=rows, notes={"returns": {split: by_split[split] for split in by_split if split != PROBE}})
    if probes:
        out.notes["probes"] = {PROBE: probe_summary(rows, by_split[PROBE], config)}
    return out


def _has_probes(pools: Mapping[str, Tasks], ctx: Context) -> bool:
    """Return whether the data was prepared with tasks of pool `probe`."""
    return PROBE in resident_tables(pools, ctx.resident).column("split").unique().to_pylist()


def read_task(task: TaskRow, acts_in: ContinuousTask) -> Assignment:
    """Return the condition of a task. Raises `ContractError` for other tasks, and for another environment than the policy's."""
    try:
        features, reference = json.loads(task.features), json.loads(task.reference)
        assignment = Assignment(
            task=task,
            condition=Condition(target=float(features["target_return"]), seed=int(features["reset_seed"])),
            random=float(reference["random"]),
            expert=float(reference["expert"]),
        )
        name = str(features["env"])
    except (ValueError, KeyError, TypeError) as error:
        expected = 'features {"env", "target_return", "reset_seed"} and reference {"random", "expert"}'
        raise _wrong(task, expected, f"{task.features[:80]} and {task.reference[:80]}: {error}") from error
    if name != acts_in.env:
        raise _wrong(task, f"environment {acts_in.env}, in which the policy acts", name)
    if assignment.random == assignment.expert:
        raise _wrong(task, "different returns of a random policy and of the expert", f"{assignment.random:g} for both")
    return assignment


def check_length(limit: int | None, longest: int | None, name: str) -> None:
    """Raise `ContractError` when an episode may be longer than the policy's table of timesteps."""
    if longest is not None and (limit is None or limit > longest):
        raise ContractError(
            expected=f"episodes of at most {longest} steps, which is the policy's max_timestep",
            found=f"a limit of {limit} steps in {name}" if limit else f"no limit of steps in {name}",
            where="evaluate.policy:config.json:arch.max_timestep",
            action="set dataset_prep.arch.max_timestep to the limit of the environment, and train again",
        )


def returns(assigned: Sequence[Assignment], episodes: Sequence[Episode]) -> dict[str, dict[str, dict[str, float]]]:
    """Return split -> arm -> mean `return` and mean `target`."""
    pairs_of: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for assignment, episode in zip(assigned, episodes, strict=True):
        pairs_of[assignment.task.split][assignment.task.arm].append((episode.total, assignment.condition.target))
    return {split: {arm: _means(pairs) for arm, pairs in sorted(arms.items())} for split, arms in pairs_of.items()}


def _means(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    totals, targets = zip(*pairs, strict=True)
    return {"return": math.fsum(totals) / len(pairs), "target": math.fsum(targets) / len(pairs)}


def probe_summary(
    rows: Sequence[EvalRow], means: dict[str, dict[str, float]], config: SimulateConfig
) -> dict[str, Any]:
    """Return the summary of pool `probe` like that of a split, with the mean return and the mean target of every arm."""
    summary = split_summary(rows, PROBE, config)
    summary["arms"] = {arm: values | means[arm] for arm, values in summary["arms"].items()}
    return summary


def _row(assignment: Assignment, episode: Episode) -> EvalRow:
    task = assignment.task
    view = {"return": episode.total, "target": assignment.condition.target}
    return EvalRow(
        task_id=task.task_id,
        arm=task.arm,
        split=task.split,
        sample=-1,
        score=assignment.score(episode.total),
        length=episode.length,
        truncated=episode.truncated,
        answer=json.dumps(view),
    )


def _wrong(task: TaskRow, expected: str, found: str) -> ContractError:
    return ContractError(
        expected=expected,
        found=found,
        where=f"Tasks:features of {task.task_id}",
        action="evaluate on the tasks that were prepared with this policy",
    )
