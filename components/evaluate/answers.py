"""Answers of a policy to held-out tasks, as evaluation rows.

All policies of an evolution get the same tasks: the first of each arm and split, in file order. They also get the same random
numbers, because the seed of a sample depends on evolution, task and sample number, but not on the step. This pairs the answers of
two policies as tightly as possible. A policy that did not change gives the same answers again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from instar import seeds
from instar.components.evaluate.attempts import Attempts
from instar.components.reward.scoring import Completion, open_scorer
from instar.components.reward.verifiers import Abstain, Failed, Score, Verdict
from instar.components.rollout.engine import Request
from instar.components.rollout.engines import open_engine
from instar.components.task_table import pools_of
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context
from instar.errors import RewardError
from instar.rows import EvalRow, TaskRow

if TYPE_CHECKING:
    from instar.components.evaluate.config import AnswerConfig
    from instar.components.evaluate.stage import Ins

_REQUESTS = 256
"""How many requests the engine gets at once. A heartbeat follows each batch."""


def answer(tasks: Sequence[TaskRow], ins: Ins, config: AnswerConfig, ctx: Context) -> Attempts:
    """Return verdicts on the greedy and sampled answers of the policy.

    With `config.judge`, also return the policy's own verdicts on answers.
    Raises `RewardError` when too many verdicts failed.
    """
    engine, tokenizer, out = open_engine(config.engine, ins.policy, ctx), load_tokenizer(ins.policy), Attempts()
    scorer = open_scorer(config, ins, ins.policy, ctx)
    plans = [(0.0, [-1])] if config.greedy else []
    plans += [(config.temperature, list(range(config.samples)))] if config.samples else []
    prompts = {task.task_id: tokenizer.encode_prompt(task.prompt, task.form) for task in tasks}
    for temperature, numbers in plans:
        for chunk in _chunks(tasks):
            requests = [_request(task, prompts[task.task_id], numbers, ctx.evolution) for task in chunk]
            replies = engine.sample(
                requests, max_new_tokens=config.max_new_tokens, temperature=temperature, stop=config.stop
            )
            completions = [
                Completion(
                    task=task,
                    text=tokenizer.decode(sample.token_ids),
                    token_ids=sample.token_ids,
                    truncated=sample.truncated,
                )
                for task, samples in zip(chunk, replies, strict=True)
                for sample in samples
            ]
            verdicts = scorer.score(completions)
            for number, completion, verdict in zip(itertools.cycle(numbers), completions, verdicts, strict=False):
                _record(out, number, completion, verdict)
            ctx.heartbeat(f"{len(out.rows)} answers", {})
    share = out.failures.total() / len(out.rows)
    if share > config.failed_limit:
        reason, count = out.failures.most_common(1)[0]
        raise RewardError(
            expected=f"at most {config.failed_limit:.0%} failed verdicts",
            found=f"{share:.0%} of {len(out.rows)}; most often ({count}x) {reason}",
            where="evaluate.evaluation",
            action="fix the verifier or the references, because a failed verdict is not a wrong answer",
        )
    if config.judge is not None:
        from instar.components.evaluate.asking import Asker
        from instar.components.evaluate.judging import run

        asker = Asker(engine=engine, tokenizer=tokenizer, stop=config.stop, heartbeat=ctx.heartbeat)
        out.judging = run(tasks, out.rows, pools_of(ins), asker, config, ctx)
    return out


def _request(task: TaskRow, prompt: list[int], numbers: Sequence[int], evolution: str) -> Request:
    keys = [seeds.seed(evolution, 0, "evaluate", f"{task.task_id}/{number}") for number in numbers]
    return Request(request_id=task.task_id, prompt_ids=prompt, seeds=keys)


def _record(out: Attempts, number: int, completion: Completion, verdict: Verdict) -> None:
    task = completion.task
    if isinstance(verdict, Failed):
        out.failures[verdict.reason] += 1
    out.num_abstained += isinstance(verdict, Abstain)
    out.rows.append(
        EvalRow(
            task_id=task.task_id,
            arm=task.arm,
            split=task.split,
            sample=number,
            score=verdict.correct if isinstance(verdict, Score) else None,
            length=len(completion.token_ids),
            truncated=completion.truncated,
            answer=completion.text,
        )
    )


def _chunks(tasks: Sequence[TaskRow]) -> Iterator[Sequence[TaskRow]]:
    for start in range(0, len(tasks), _REQUESTS):
        yield tasks[start : start + _REQUESTS]
