"""Answers of a policy to held-out tasks, as evaluation rows.

The tasks are the first of each arm and split in file order, and the seed of a sample is keyed by evolution, task and
sample number but not by the step: two policies of one evolution face the same tasks with the same random numbers,
which pairs their answers as tightly as possible, and a policy that did not change gives the same answers again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from instar import schema, seeds
from instar.artifact import Policy, Tasks
from instar.components.evaluate.config import Config
from instar.components.reward.verifiers import Abstain, Failed, Score, verify
from instar.components.rollout.engine import Request, open_engine
from instar.components.task_table import resident_table
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context
from instar.errors import ContractError, RewardError
from instar.rows import EvalRow, TaskRow

_REQUESTS = 256
"""Requests handed to the engine at once; a heartbeat follows each batch."""


@dataclass(slots=True, kw_only=True)
class Answers:
    """Rows in order of task and sample, and how many verdicts are missing and why."""

    rows: list[EvalRow] = field(default_factory=list)
    num_abstained: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def choose_tasks(tasks: Tasks, config: Config, ctx: Context) -> list[TaskRow]:
    """Return the tasks to evaluate in file order. A split without tasks is a `ContractError`."""
    table = resident_table(tasks, ctx.resident)
    splits, arms = table.column("split").to_numpy(), table.column("arm").to_numpy()
    taken: Counter[tuple[str, str]] = Counter()
    picks = []
    for index in np.flatnonzero(np.isin(splits.astype(str), config.splits)).tolist():
        key = (splits[index], arms[index])
        if config.tasks_per_arm == 0 or taken[key] < config.tasks_per_arm:
            taken[key] += 1
            picks.append(index)
    empty = sorted(set(config.splits) - {split for split, _ in taken})
    if empty:
        raise ContractError(
            expected=f"tasks of splits {list(config.splits)}",
            found=f"none of {empty}",
            where=f"Tasks {tasks.digest}:split",
            action="prepare these pools or take the splits out of evaluate.splits",
        )
    return list(schema.from_table(TaskRow, table.take(picks)))


def answer(tasks: Sequence[TaskRow], policy: Policy, config: Config, ctx: Context) -> Answers:
    """Return verdicts on the greedy and sampled answers of `policy`. Too many failed verdicts are a `RewardError`."""
    engine, tokenizer, out = open_engine(config.engine, policy, ctx), load_tokenizer(policy), Answers()
    plans = [(0.0, [-1])] if config.greedy else []
    plans += [(config.temperature, list(range(config.samples)))] if config.samples else []
    prompts = {task.task_id: tokenizer.encode(task.prompt) for task in tasks}
    for temperature, numbers in plans:
        for chunk in _chunks(tasks):
            requests = [_request(task, prompts[task.task_id], numbers, ctx.evolution) for task in chunk]
            replies = engine.sample(requests, max_new_tokens=config.max_new_tokens, temperature=temperature)
            for task, samples in zip(chunk, replies, strict=True):
                for number, sample in zip(numbers, samples, strict=True):
                    text = tokenizer.decode(sample.token_ids)
                    _record(out, task, number, text, len(sample.token_ids), sample.truncated, config.style)
            ctx.heartbeat(f"{len(out.rows)} answers", {})
    share = out.failures.total() / len(out.rows)
    if share > config.failed_limit:
        reason, count = out.failures.most_common(1)[0]
        raise RewardError(
            expected=f"at most {config.failed_limit:.0%} failed verdicts",
            found=f"{share:.0%} of {len(out.rows)}; most often ({count}x) {reason}",
            where="evaluate.evaluation",
            action="fix the verifier or the references; a failed verdict is not a wrong answer",
        )
    return out


def _request(task: TaskRow, prompt: list[int], numbers: Sequence[int], evolution: str) -> Request:
    keys = [seeds.seed(evolution, 0, "evaluate", f"{task.task_id}/{number}") for number in numbers]
    return Request(request_id=task.task_id, prompt_ids=prompt, seeds=keys)


def _record(out: Answers, task: TaskRow, number: int, text: str, num_tokens: int, truncated: bool, style: str) -> None:
    verdict = verify(task, text, style)
    if isinstance(verdict, Failed):
        out.failures[verdict.reason] += 1
    out.num_abstained += isinstance(verdict, Abstain)
    out.rows.append(
        EvalRow(
            task_id=task.task_id,
            arm=task.arm,
            split=task.split,
            sample=number,
            correct=verdict.correct if isinstance(verdict, Score) else None,
            num_tokens=num_tokens,
            truncated=truncated,
            answer=text,
        )
    )


def _chunks(tasks: Sequence[TaskRow]) -> Iterator[Sequence[TaskRow]]:
    for start in range(0, len(tasks), _REQUESTS):
        yield tasks[start : start + _REQUESTS]
