"""Decoding a real small model: tokens per CPU second against `generate`, and how far from the floors of this machine.

Both sides sample B answers of 32 tokens to one prompt of 56, temperature 1, no stop, same weights and precision, interleaved.
Ours is charged for reading the prompt and, in `tokens_per_cpu_s`, for laying out the weights as if every rollout had a
policy of its own; `warm_tokens_per_cpu_s` leaves that out. Floors of one step of B rows: `bandwidth`, weights and cache read
once at the measured read speed; `kernel`, the measured times of the step's matrix products alone, with the real weights in
their real order. `share_of_floor` compares them with a step as it ran: products, attention, sampling, and Python.
The model is the folder `$INSTAR_BENCH_MODEL`, else the packaged SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timing import Cost, compare, interleave, medians

from instar.components.rollout import batching
from instar.components.rollout.engine import Request
from instar.components.rollout.packed_linear import has_bfloat16
from instar.components.rollout.transformers_engine import TransformersEngine
from instar.kernels.decode import cpp

ROWS, PROMPT_TOKENS, NEW_TOKENS, REPEATS = (8, 32, 64), 56, 32, 2
GOAL = 0.6
"""Share of the kernel floor that a decode step must reach."""
READ_BYTES = 2**28


def run() -> list[dict[str, Any]]:
    """Return for every number of answers its throughput, its floors and its profile."""
    return list(measured())


def measured() -> Iterator[dict[str, Any]]:
    """Yield the rows as they are measured; about four minutes of one core."""
    torch.set_num_threads(1)
    cpp.LIBRARY.build()
    model = load()
    yield equal_greedy(model)
    speed = read_speed()
    for count in ROWS:
        for measure in (lambda n: floors(model, n, speed), lambda n: profile(model, n), lambda n: throughput(model, n)):
            with torch.inference_mode():
                row = measure(count)
            yield row


def load() -> Any:
    """Return the model in bfloat16 where the processor has it, else in float32."""
    from transformers import AutoModelForCausalLM

    path = os.environ.get("INSTAR_BENCH_MODEL", "")
    if not path:
        from instar.components.dataset_prep import packaged

        path = str(packaged.fetch("smollm2-135m-instruct"))
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(Path(path), dtype=dtype, local_files_only=True).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # out of the mapped file
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def prompt(model: Any) -> list[int]:
    """Return 56 fixed ids."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(100, model.config.vocab_size - 100, (PROMPT_TOKENS,), generator=generator).tolist()


def open_engine(model: Any, **options: Any) -> TransformersEngine:
    """Return an engine without stop tokens."""
    return TransformersEngine(model, digest="bench", eos_ids=[], max_rows=max(ROWS), **options)


def sample(
    engine: TransformersEngine, model: Any, count: int, tokens: int, temperature: float = 1.0
) -> list[list[int]]:
    """Return the tokens of `count` answers."""
    request = Request(request_id="0", prompt_ids=prompt(model), seeds=list(range(count)))
    return [s.token_ids for s in engine.sample([request], max_new_tokens=tokens, temperature=temperature)[0]]


def equal_greedy(model: Any) -> dict[str, Any]:
    """Return whether greedy tokens equal those of `generate` in float32. Raises `AssertionError` when they differ."""
    wide = type(model)(model.config).eval()
    wide.load_state_dict(model.state_dict())
    wide.generation_config.eos_token_id, wide.generation_config.pad_token_id = None, 0
    ids = torch.tensor([prompt(model)])
    theirs = wide.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS)
    ours = sample(open_engine(model, dtype=torch.float32), model, 1, NEW_TOKENS, 0.0)
    if ours[0] != theirs[0, PROMPT_TOKENS:].tolist():
        raise AssertionError(f"greedy tokens differ: {ours[0]} and {theirs[0, PROMPT_TOKENS:].tolist()}")
    return {"name": "decoding/greedy_equals_generate", "dtype": "float32", "tokens": NEW_TOKENS, "equal": True}


def cost(call: Callable[[], object]) -> Cost:
    """Return the seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def throughput(model: Any, count: int) -> dict[str, Any]:
    """Return tokens per CPU second of both sides and the median of pairwise ratios."""
    ids, kept = torch.tensor([prompt(model)]), open_engine(model)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": NEW_TOKENS}

    def generate() -> object:
        return model.generate(ids, attention_mask=torch.ones_like(ids), num_return_sequences=count, **settings)

    sides: dict[str, Callable[[], Cost]] = {
        "ours": lambda: cost(lambda: sample(open_engine(model), model, count, NEW_TOKENS)),
        "warm": lambda: cost(lambda: sample(kept, model, count, NEW_TOKENS)),
        "generate": lambda: cost(generate),
    }
    costs, tokens = interleave(sides, REPEATS), count * NEW_TOKENS
    return {
        "name": f"decoding/B{count}",
        "forward": f"{kept.forward.name}: {kept.forward.reason}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens_per_cpu_s": tokens / medians(costs["ours"])["cpu_s"],
        "warm_tokens_per_cpu_s": tokens / medians(costs["warm"])["cpu_s"],
        "generate_tokens_per_cpu_s": tokens / medians(costs["generate"])["cpu_s"],
        **compare(costs["generate"], costs["ours"]),
        "warm_ratio_cpu": compare(costs["generate"], costs["warm"])["ratio_cpu"],
        "threads": torch.get_num_threads(),
    }


def read_speed() -> float:
    """Return bytes read per CPU second from memory that no cache holds, the best of five."""
    block = torch.ones(READ_BYTES // 4)
    return READ_BYTES / min(cost(block.sum).cpu_s for _ in range(5))


def floors(model: Any, count: int, speed: float) -> dict[str, Any]:
    """Return the floors of one step of `count` rows, and what share of them a step reaches."""
    engine = open_engine(model)
    products = product_calls(engine.forward, count)
    sample(engine, model, count, 2)
    kernel, step = [], []
    for _ in range(3 * REPEATS):  # interleaved: the machine is not quiet
        kernel.append(sum(cost(call).cpu_s for call in products))
        whole, first = (cost(lambda n=n: sample(engine, model, count, n)).cpu_s for n in (NEW_TOKENS, 1))
        step.append((whole - first) / (NEW_TOKENS - 1))
    config = model.config
    size = model.dtype.itemsize
    weights = sum(p.numel() for p in model.parameters()) * size
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    columns = PROMPT_TOKENS + NEW_TOKENS / 2
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size * columns * count
    bandwidth, median = (weights + cache) / speed, statistics.median(step)
    share = statistics.median(a / b for a, b in zip(kernel, step, strict=True))
    return {
        "name": f"decoding/floors/B{count}",
        "step_cpu_s": median,
        "kernel_floor_s": statistics.median(kernel),
        "bandwidth_floor_s": bandwidth,
        "read_bytes_per_s": speed,
        "step_bytes": weights + cache,
        "share_of_kernel_floor": share,
        "share_of_bandwidth_floor": bandwidth / median,
        "bar": GOAL,
        "met": share >= GOAL,
    }


def product_calls(forward: Any, count: int) -> list[Callable[[], object]]:
    """Return the matrix products of one step, layer after layer, on random rows."""
    generator = torch.Generator().manual_seed(0)
    calls: list[Callable[[], object]] = []

    def add(product: Any, width: int, kind: torch.dtype = forward._embed.dtype) -> int:
        x = torch.randn(count, width, generator=generator).to(kind)
        calls.append(lambda: product(x))
        return int(product(x).shape[1])

    hidden = forward._embed.shape[1]
    for layer in forward._layers:
        add(layer.qkv, hidden)
        add(layer.out, forward._heads * forward._width)
        add(layer.down, add(layer.gate_up, hidden) // 2)
    add(forward._head, hidden, forward._kind)
    return calls


def profile(model: Any, count: int) -> dict[str, Any]:
    """Return CPU seconds by part of one rollout; reading the prompt, filling slots and Python are apart."""
    engine = open_engine(model)
    spent: dict[str, float] = defaultdict(float)

    def timed(part: str, call: Any) -> Any:
        def run(*args: Any) -> Any:
            began = time.process_time()
            result = call(*args)
            spent[part] += time.process_time() - began
            return result

        return run

    forward: Any = engine.forward
    fields = ("qkv", "out", "gate_up", "down")
    layers = forward._layers
    read, pick = forward.read, batching.pick
    forward._kernel = dataclasses.replace(
        forward._kernel,
        attend=timed("attention", forward._kernel.attend),
        add_norm=timed("norms", forward._kernel.add_norm),
        silu_mul=timed("activation", forward._kernel.silu_mul),
    )
    forward._head = timed("head", forward._head)

    def step(*args: Any) -> Any:
        forward._layers = [
            dataclasses.replace(layer, **{f: timed("products", getattr(layer, f)) for f in fields}) for layer in layers
        ]
        return whole(*args)

    def first(prompts: Any) -> Any:
        kept = dict(spent)
        result = timed("prompt", read)(prompts)
        for part in ("products", "head", "norms", "activation", "attention"):  # counted under `prompt`
            spent[part] = kept.get(part, 0.0)
        return result

    whole, forward.read, forward.step = forward.step, first, step
    batching.pick = timed("sampling", pick)
    placed = batching.SlotCache.place
    batching.SlotCache.place = timed("slots", placed)  # type: ignore[method-assign]
    try:
        total = cost(lambda: sample(engine, model, count, NEW_TOKENS)).cpu_s
    finally:
        batching.pick, batching.SlotCache.place = pick, placed  # type: ignore[method-assign]
    spent["rest"] = total - sum(spent.values())
    return {
        "name": f"decoding/profile/B{count}",
        "cpu_s": total,
        **{f"share_{part}": seconds / total for part, seconds in sorted(spent.items(), key=lambda item: -item[1])},
    }


if __name__ == "__main__":
    for row in measured():
        print(json.dumps(row), flush=True)
