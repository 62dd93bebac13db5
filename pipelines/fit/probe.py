"""Measures the rates of this machine's CPU in a few seconds, with matrix products of the model's own sizes.

Every product runs in the precision and with the number of threads that the recipe sets. `train` is forward and backward through one
feed-forward block and one square matrix. `decode` is the same products with as many rows as are sampled at once, in the memory
layout of the sampler.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from instar.components.architecture import Architecture
from instar.components.rollout.packed_linear import Linear, linear
from instar.components.update.memory import available_bytes
from instar.pipelines.fit.devices import CPU, Device, Rates

POSITIONS = 512
"""Rows of the products for reading and training."""
LAYERS = 6
"""Layers of the products. They are too large for the caches, as the layers of a model are."""
COPIED = 2**27
"""Bytes of the copy that measures bandwidth; too many for the caches."""
REST_READ, REST_TRAIN, REST_DECODE = 1.25, 1.35, 1.25
"""Time of a whole pass over the time of its products. The rest is norms, attention, activations. Measured on SmolLM2-135M."""


def cpu(model: Architecture, dtype: str, rows: int, threads: int) -> Device:
    """Return this machine as a device for a model that samples `rows` rows and trains in `dtype`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        rates = _rates(model, getattr(torch, dtype), rows)
    finally:
        torch.set_num_threads(before)
    return Device(
        name=CPU,
        title="this machine",
        memory=float(available_bytes(CPU)),
        rates=rates,
        cuda=False,
        workspace=0,
        source=f"measured now, {threads or before} threads",
    )


def _rates(model: Architecture, dtype: torch.dtype, rows: int) -> Rates:
    shapes = [(2 * model.intermediate, model.hidden), (model.hidden, model.intermediate), (model.hidden, model.hidden)]
    flops = 2 * sum(out * into for out, into in shapes)
    layers = [[torch.randn(*shape).to(dtype) for shape in shapes] for _ in range(LAYERS)]
    packed = [[linear(weight, None, rows) for weight in layer] for layer in layers]
    plain: list[list[Linear]] = [[partial(_product, weight) for weight in layer] for layer in layers]
    head = linear(torch.randn(model.vocab, model.hidden), None, rows)
    hidden = torch.randn(rows, model.hidden)

    def run(products: list[list[Linear]], count: int) -> float:
        inputs = [torch.randn(count, into).to(dtype) for _, into in shapes]
        return _fastest(lambda: [f(x) for layer in products for f, x in zip(layer, inputs, strict=True)]) / LAYERS

    with torch.inference_mode():
        read, decode, head_s = run(plain, POSITIONS), run(packed, rows), _fastest(lambda: head(hidden))
        stream = _copied()
    train = _fastest(lambda: _trained(layers[0]))
    return Rates(
        read=flops * POSITIONS / read / REST_READ,
        train=3 * flops * POSITIONS / train / REST_TRAIN,
        decode=flops * rows / decode / REST_DECODE,
        head=2 * model.head_parameters * rows / head_s,
        weights=2 * stream,
        copy=2 * stream,
        link=stream,
    )


def _product(weight: Tensor, rows: Tensor) -> Tensor:
    return torch.nn.functional.linear(rows, weight)


def _trained(weights: list[Tensor]) -> None:
    for weight in weights:
        parameter = torch.nn.Parameter(weight)
        rows = torch.randn(POSITIONS, weight.shape[1], requires_grad=True)
        _product(parameter, rows.to(weight.dtype)).sum().backward()  # type: ignore[no-untyped-call]


def _copied() -> float:
    """Return the bytes per second of a copy in memory."""
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    return COPIED / _fastest(lambda: target.copy_(source))


def _fastest(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the CPU seconds per thread of the fastest of several calls, after one call to warm up.

    So other programs on this machine change the result little.
    """
    call()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return max(min(times), 1e-9) / torch.get_num_threads()
