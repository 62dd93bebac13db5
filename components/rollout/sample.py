"""Text rollouts: the policy answers the drawn prompts. The record keeps every token with its log-probability.

Token ids are the record. A row holds the ids of the prompt, followed by the sampled ids. Text is never encoded again after
sampling.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from instar.artifact import Policy, Rollouts, Tasks
from instar.components.policy_io import row_name
from instar.components.rollout.describe import describe
from instar.components.rollout.engine import (
    Engine,
    Request,
    Sample,
    canary_logprob,
    check_canary,
    check_served,
    facts,
    rest,
)
from instar.components.rollout.engines import open_engine
from instar.components.rollout.stops import holds
from instar.components.task_table import lookup
from instar.components.tokenizer import TextTokenizer, load_tokenizer
from instar.contract import PERF, Context, Metrics
from instar.errors import ContractError, EngineError
from instar.rows import BatchRow, RolloutRow, Step, TaskRow

if TYPE_CHECKING:
    from instar.components.rollout.config import SampleConfig

_PARTS = 4  # a heartbeat follows after this many engine batches


def sample(
    policy: Policy,
    pools: Mapping[str, Tasks],
    slots: Sequence[BatchRow],
    rollouts: Rollouts,
    config: SampleConfig,
    ctx: Context,
) -> Metrics:
    """Sample `group_size` answers to every prompt slot of a task in `pools`."""
    engine, acting = open_engine(config.engine, policy, ctx), row_name(policy)
    tokenizer = load_tokenizer(policy)
    prompts = lookup(pools, {slot.task_id for slot in slots}, ctx.resident)
    requests = [_request(slot, prompts, tokenizer, ctx) for slot in slots]
    start = time.perf_counter()
    rows: list[RolloutRow] = []
    for part in _parts(list(zip(slots, requests, strict=True)), _PARTS * config.engine.max_rows):
        rows += _part(engine, part, tokenizer, config, acting)
        ctx.heartbeat(f"{len(rows)} rollouts", {})
    seconds = time.perf_counter() - start
    check_served(engine, policy)
    canary = canary_logprob(engine, tokenizer.vocab_size)
    check_canary(ctx, policy, canary)
    rest(engine)
    rollouts.write(rows)
    metrics = describe(rows)
    speed = metrics["tokens"] / seconds if rows else 0.0
    metrics |= facts(engine)
    return {**metrics, "canary_logprob": canary, f"{PERF}tokens_per_s": speed}


def check_sample(sample: Sample, request: Request, tokenizer: TextTokenizer, config: SampleConfig) -> None:
    """Raise `EngineError` unless the sample ends with its first stop or at the limit, with one log-probability per token.

    A stop is a stop token, or the token that completes a stop string. Some engines take their tokens from text. They lose stop
    tokens, end a sample after its stop string, or return another number of tokens. This check finds all three.
    """
    ids, eos_ids, limit = sample.token_ids, tokenizer.eos_ids, config.max_new_tokens
    stops = [i for i, token in enumerate(ids) if token in eos_ids]
    early, late = (bool(config.stop) and holds(tokenizer.decode(part), config.stop) for part in (ids[:-1], ids))
    cut = sample.truncated and not stops and not late and len(ids) == limit
    ended = not sample.truncated and not early and len(ids) <= limit and (stops or late)
    if len(ids) != len(sample.logprobs) or stops not in ([], [len(ids) - 1]) or not (cut or ended):
        raise EngineError(
            expected=f"tokens up to the first of {[*sorted(eos_ids), *config.stop]}, or {limit} tokens of a truncated answer, "
            "with one log-probability each",
            found=f"{len(ids)} tokens, {len(sample.logprobs)} log-probabilities, stop tokens at {stops}, "
            f"stop string {'before the last token' if early else 'at the last token' if late else 'nowhere'}, "
            f"truncated {sample.truncated}",
            where=f"request {request.request_id}",
            action="return the sampled ids themselves, never ids encoded from text",
        )


def check_append_only(row: RolloutRow, prompt_ids: Sequence[int]) -> None:
    """Raise `ContractError` unless the row starts with exactly the prompt, and its steps cover it without gaps.

    This holds for every turn: tokens that the policy has read are never rewritten, and new ones are only appended.
    """
    edges = [0, *(step.end for step in row.steps)]
    tiled = all(s.start == a and s.end >= a for s, a in zip(row.steps, edges, strict=False)) and edges[-1] == len(
        row.token_ids
    )
    actions = sum(step.end - step.start for step in row.steps if step.role == "action")
    if list(row.token_ids[: len(prompt_ids)]) == list(prompt_ids) and tiled and actions == len(row.behaviour_logprobs):
        return
    pairs = zip(row.token_ids, prompt_ids, strict=False)
    differs = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(row.token_ids), len(prompt_ids)))
    raise ContractError(
        expected=f"{len(prompt_ids)} prompt ids unchanged, spans without gaps, one log-probability per action token",
        found=f"ids that are equal up to {differs}, spans {[(s.role, s.start, s.end) for s in row.steps]} "
        f"of {len(row.token_ids)} tokens, {len(row.behaviour_logprobs)} log-probabilities",
        where=f"rollout {row.rollout_id}:token_ids",
        action="append sampled ids to the prompt ids; do not decode and encode in between",
    )


def _request(slot: BatchRow, prompts: dict[str, TaskRow], tokenizer: TextTokenizer, ctx: Context) -> Request:
    task = prompts.get(slot.task_id)
    if task is None or task.arm != slot.arm:
        raise ContractError(
            expected=f"task {slot.task_id} of arm {slot.arm}",
            found=f"a task of arm {task.arm}" if task else "no such task",
            where=f"batch slot {slot.slot}",
            action="draw from the task pools that the rollout reads",
        )
    seeds = [ctx.seed(f"{slot.group_id}/{i}") for i in range(slot.group_size)]
    return Request(request_id=slot.group_id, prompt_ids=tokenizer.encode_prompt(task.prompt, task.form), seeds=seeds)


Drawn = tuple[BatchRow, Request]


def _parts(drawn: Sequence[Drawn], num_rows: int) -> Iterator[list[Drawn]]:
    """Yield parts of about `num_rows` samples each. A group is never split."""
    part: list[Drawn] = []
    for pair in drawn:
        if part and sum(len(request.seeds) for _, request in [*part, pair]) > num_rows:
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


def _part(
    engine: Engine, drawn: list[Drawn], tokenizer: TextTokenizer, config: SampleConfig, acting: str
) -> list[RolloutRow]:
    requests = [request for _, request in drawn]
    groups = engine.sample(
        requests, max_new_tokens=config.max_new_tokens, temperature=config.temperature, stop=config.stop
    )
    rows = []
    for (slot, request), samples in zip(drawn, groups, strict=True):
        for i, (seed, sample) in enumerate(zip(request.seeds, samples, strict=True)):
            check_sample(sample, request, tokenizer, config)
            row = _row(slot, request.prompt_ids, f"{slot.group_id}/{i}", sample, seed, acting)
            check_append_only(row, request.prompt_ids)
            rows.append(row)
    return rows


def _row(slot: BatchRow, prompt_ids: list[int], rollout_id: str, sample: Sample, seed: int, acting: str) -> RolloutRow:
    start, end = len(prompt_ids), len(prompt_ids) + len(sample.token_ids)
    return RolloutRow(
        rollout_id=rollout_id,
        task_id=slot.task_id,
        arm=slot.arm,
        kind="text",
        group_id=slot.group_id,
        policy=acting,
        token_ids=[*prompt_ids, *sample.token_ids],
        behaviour_logprobs=sample.logprobs,
        steps=[Step(role="prompt", start=0, end=start), Step(role="action", start=start, end=end)],
        truncated=sample.truncated,
        seed=seed,
    )
