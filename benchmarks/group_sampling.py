"""Group sampling against `generate(num_return_sequences=G)` of transformers, same model, same process, interleaved.

Both sides first decode greedily and must give equal tokens. Timed is sampling at temperature 1 without a stop token, so
that both do the same number of steps. `generate` pays for G copies of each prompt at prefill, for a cache that grows by
concatenation, and for `multinomial` over the vocabulary.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from instar.components.rollout.engine import Request
from instar.components.rollout.transformers_engine import TransformersEngine

PROMPT_TOKENS, NEW_TOKENS, REPEATS = 64, 16, 5


class Case(NamedTuple):
    """A model shape and how many samples are drawn from how many prompts."""

    name: str
    hidden: int
    layers: int
    vocab: int
    prompts: int
    group: int


CASES = (
    Case("tiny-0.6M", 128, 3, 64, 8, 8),
    Case("tiny-0.6M", 128, 3, 64, 8, 32),
    Case("llama-20M", 384, 8, 8192, 1, 8),
    Case("llama-20M", 384, 8, 8192, 1, 32),
)


def build(case: Case) -> Any:
    """Return a random Llama of the case's shape in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=3 * case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=case.hidden // 32,
        num_key_value_heads=case.hidden // 64,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model: Any = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[1] ** -0.5)
    return model


def sides(case: Case, model: Any) -> tuple[Callable[[bool], list[list[int]]], Callable[[bool], list[list[int]]]]:
    """Return ours and theirs: functions of `greedy` that give the new tokens of every row, groups in order."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(1, case.vocab, (case.prompts, PROMPT_TOKENS), generator=generator)
    engine = TransformersEngine(model, digest="bench", eos_ids=[], max_rows=case.prompts * case.group)
    requests = [
        Request(request_id=str(i), prompt_ids=ids, seeds=list(range(i * case.group, (i + 1) * case.group)))
        for i, ids in enumerate(prompts.tolist())
    ]

    def ours(greedy: bool) -> list[list[int]]:
        groups = engine.sample(requests, max_new_tokens=NEW_TOKENS, temperature=0.0 if greedy else 1.0)
        return [sample.token_ids for group in groups for sample in group]

    def theirs(greedy: bool) -> list[list[int]]:
        batch = prompts.repeat_interleave(case.group, 0) if greedy else prompts  # greedy search returns one sequence
        out = model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=NEW_TOKENS,
            do_sample=not greedy,
            num_return_sequences=1 if greedy else case.group,
            **({} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
        )
        rows: list[list[int]] = out[:, PROMPT_TOKENS:].tolist()
        return rows

    return ours, theirs


def timed(call: Callable[[bool], list[list[int]]]) -> tuple[float, float]:
    """Return wall and CPU seconds of one sampled call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call(False)
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(case: Case) -> dict[str, Any]:
    """Return one result row; `ratio` is the median over pairs of theirs / ours in CPU seconds."""
    ours, theirs = sides(case, build(case))
    mine, other = ours(True), theirs(True)
    if mine != other:
        differ = sum(a != b for a, b in zip(mine, other, strict=True))
        raise AssertionError(f"{case.name} G={case.group}: greedy outputs differ in {differ} of {len(mine)} rows")
    ours(False)
    theirs(False)
    pairs = [(timed(ours), timed(theirs)) for _ in range(REPEATS)]
    return {
        "name": f"group_sampling/{case.name}/prompts{case.prompts}/G{case.group}",
        "ours_s": statistics.median(a[0] for a, _ in pairs),
        "theirs_s": statistics.median(b[0] for _, b in pairs),
        "ratio": statistics.median(b[1] / a[1] for a, b in pairs),
        "ratio_wall": statistics.median(b[0] / a[0] for a, b in pairs),
        "cpu_s": statistics.median(a[1] for a, _ in pairs),
        "theirs_cpu_s": statistics.median(b[1] for _, b in pairs),
        "tokens": case.prompts * case.group * NEW_TOKENS,
        "threads": torch.get_num_threads(),
        "equal_greedy_outputs": True,
    }


def run() -> list[dict[str, Any]]:
    """Return one row per case."""
    return [measure(case) for case in CASES]


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
