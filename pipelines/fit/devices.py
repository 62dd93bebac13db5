"""The devices that a recipe can be planned for: their memory, their rates, and the source of the numbers."""

from __future__ import annotations

from dataclasses import dataclass

from instar.errors import ConfigError, nearest

GIB = 2**30
WORKSPACE = 3 * 2**29
"""Bytes that the plan does not count: CUDA context, cuBLAS and fragments of the allocator. Assumed, not measured."""


ROOM = 0.95
"""Share of a GPU's memory that a plan may fill."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates that a device reaches.

    In FLOP/s: `read` for reading prompts and for passes without gradient, `train` for forward and backward, `decode` for the matrix
    products of a decode step, `head` for the product with the output matrix.
    In bytes/s: `weights` for streaming weights and cache in a decode step, `copy` for memory that is read and written, `link` for
    one direction between device and host.
    """

    read: float
    train: float
    decode: float
    head: float
    weights: float
    copy: float
    link: float
    pass_s: float = 0.0
    """Seconds that a forward and backward pass takes in addition to its arithmetic."""
    step_s: float = 0.0
    """Seconds that a decode step takes in addition to its arithmetic."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device. `memory` is what a process can take, in bytes; `workspace` of it is not available for tensors.

    `cuda` says that it is a GPU. Then vLLM can sample there.
    """

    name: str
    title: str
    memory: float
    rates: Rates
    source: str
    cuda: bool = True
    workspace: int = WORKSPACE

    @property
    def usable(self) -> float:
        """Bytes that a plan may fill. On a GPU a part is left free, because a prediction can be too low."""
        return ROOM * self.memory if self.cuda else self.memory


READ, TRAIN, STREAM = 0.5, 0.35, 0.6
"""Shares of the published peaks that are reached: FLOP/s in reading, FLOP/s in training, bandwidth. Assumed, not measured."""


def _gpu(name: str, title: str, gib: float, flops: float, bandwidth: float, link: float, source: str) -> Device:
    rates = Rates(
        read=READ * flops,
        train=TRAIN * flops,
        decode=READ * flops,
        head=READ * flops,
        weights=STREAM * bandwidth,
        copy=STREAM * bandwidth,
        link=STREAM * link,
        pass_s=0.03,
        step_s=0.004,
    )
    return Device(name=name, title=title, memory=gib * GIB, rates=rates, source=source)


DEVICES: dict[str, Device] = {
    # memory: what CUDA reports, rounded down; FLOP/s: bfloat16, dense; link: PCIe of that generation, 16 lanes, one direction
    "h200": _gpu(
        "h200", "H200 SXM", 139.0, 989e12, 4.8e12, 64e9, "nvidia.com/en-us/data-center/h200: 141 GB, 4.8 TB/s"
    ),
    "h100-80g": _gpu(
        "h100-80g", "H100 SXM", 79.0, 989e12, 3.35e12, 64e9, "nvidia.com/en-us/data-center/h100: 3.35 TB/s"
    ),
    "a100-80g": _gpu("a100-80g", "A100 80GB SXM", 79.0, 312e12, 2.039e12, 32e9, "nvidia.com/en-us/data-center/a100"),
    "24g": _gpu(
        "24g",
        "24 GB, the slowest of L4, A10, RTX 3090 and 4090",
        22.0,
        121e12,
        300e9,
        32e9,
        "nvidia.com/en-us/data-center/l4: 300 GB/s, 121 TFLOP/s",
    ),
}
CPU = "cpu"
"""The name of this machine's CPU as a device. Its rates are measured (`probe`)."""


def of_name(name: str) -> Device:
    """Return a device of the table. Raises `ConfigError` for an unknown name."""
    if name not in DEVICES:
        expected = f"a device: {', '.join(DEVICES)}"
        raise ConfigError(expected=expected, found=repr(name), where="--device", action=nearest(name, DEVICES))
    return DEVICES[name]


def largest_below(memory: float) -> str:
    """Return the name of the largest device of the table whose memory is at most `memory` bytes, or an empty text."""
    fitting = [device for device in DEVICES.values() if device.memory <= memory]
    return max(fitting, key=lambda device: (device.memory, -device.rates.train)).name if fitting else ""
