"""One training step of a continuous-control policy: Decision Mamba with each selective scan, and what else could be trained
instead.

Forward, loss, backward, clip and AdamW on B windows of 20 steps (60 tokens), width 128, three layers, one thread. The same
model runs with our scans, with mambapy's `pscan` and with the step loop under autograd, and its loss must agree; transformers'
MambaModel (its path without a kernel, coarse scan only) and a Decision Transformer of equal width are other models.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, cast
from unittest import mock

import torch
from timing import Cost, compare, interleave, medians
from torch import Tensor

from instar.components.continuous.build import build
from instar.components.continuous.config import Arch, ContinuousTask, DecisionMambaArch, DecisionTransformerArch
from instar.kernels.selective_scan import cpp, dispatch

K, WIDTH, LAYERS = 20, 128, 3
STATES, ACTIONS = 11, 3
CASES = ((8, 3), (64, 1))
"""Windows in a batch, repeats."""
OURS = ("sliced", "cpp")
TASK = ContinuousTask(
    env="Hopper-v5",
    state_dim=STATES,
    action_dim=ACTIONS,
    action_low=(-1.0,) * ACTIONS,
    action_high=(1.0,) * ACTIONS,
    state_mean=(0.0,) * STATES,
    state_std=(1.0,) * STATES,
    return_scale=1000.0,
)
Scan = Callable[..., tuple[Tensor, Tensor]]


def run() -> list[dict[str, Any]]:
    """Return a row per batch size and scan of ours. A machine without a C++ compiler raises `MissingDependencyError`."""
    threads, rows = torch.get_num_threads(), []
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"INSTAR_CACHE": folder}):
        cpp.LIBRARY.build()
        torch.set_num_threads(1)
        try:
            for windows, repeats in CASES:
                rows += _rows(windows, repeats)
        finally:
            torch.set_num_threads(threads)
    return rows


def _rows(windows: int, repeats: int) -> list[dict[str, Any]]:
    mamba = DecisionMambaArch(width=WIDTH, layers=LAYERS, window=K)
    scans: dict[str, Scan] = {"mambapy": mambapy_scan}
    scans |= {name: _named(name) for name in ("reference", *OURS)}
    sides = {name: continuous_step(mamba, windows, scan) for name, scan in scans.items()}
    losses = [side.first for side in sides.values()]
    assert max(losses) - min(losses) < 1e-4, f"the scans disagree on the loss: {losses}"
    sides["Decision Transformer"] = continuous_step(
        DecisionTransformerArch(width=WIDTH, layers=LAYERS, window=K), windows
    )
    sides["transformers MambaModel"] = transformers_step(windows)
    costs = interleave({name: side.timed for name, side in sides.items()}, repeats)
    rows = []
    for name in OURS:
        row: dict[str, Any] = {"row": f"Decision Mamba with {name}, B {windows}"}
        for peer in ("transformers MambaModel", "mambapy", "reference"):
            row[f"over {peer}"] = round(compare(costs[peer], costs[name])["ratio_cpu"], 2)
        row["cost of a Decision Transformer step"] = round(
            compare(costs[name], costs["Decision Transformer"])["ratio_cpu"], 2
        )
        row["cpu_ms"] = {side: round(1e3 * medians(cost)["cpu_s"], 1) for side, cost in costs.items()}
        rows.append(row)
    return rows


class Step:
    """A step to be timed; `first` is the loss of the first one."""

    def __init__(self, model: torch.nn.Module, loss: Callable[[], Tensor], scan: Scan | None) -> None:
        self.model, self.loss, self.scan = model, loss, scan
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.first = self._step()

    def _step(self) -> float:
        with mock.patch.object(dispatch, "selective_scan", self.scan or dispatch.selective_scan):
            loss = self.loss()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()
        return float(loss)

    def timed(self) -> Cost:
        """Return the cost of a step."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._step()
        return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def continuous_step(arch: Arch, windows: int, scan: Scan | None = None) -> Step:
    """Return the step of one of our policies."""
    model = build(arch, TASK, 0).train()
    g = torch.Generator().manual_seed(0)
    states, actions = (torch.randn(windows, K, n, generator=g) for n in (STATES, ACTIONS))
    returns, mask = torch.randn(windows, K, generator=g), torch.ones(windows, K, dtype=torch.bool)
    timesteps = torch.arange(K).expand(windows, K)

    def loss() -> Tensor:
        out = model(states, actions.clamp(-1, 1), returns, timesteps, mask)
        return cast(Tensor, (out.actions - actions.clamp(-1, 1)).square().mean())

    return Step(model, loss, scan)


def transformers_step(windows: int) -> Step:
    """Return the step of transformers' Mamba of equal width on as many embedded tokens."""
    from transformers import MambaConfig, MambaModel

    with torch.random.fork_rng():
        config = MambaConfig(vocab_size=8, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=16, use_cache=False)
        model = MambaModel(config)
    tokens = torch.randn(windows, 3 * K, WIDTH, generator=torch.Generator().manual_seed(0))
    return Step(model, lambda: model(inputs_embeds=tokens).last_hidden_state.square().mean(), None)


def mambapy_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mambapy's parallel scan in our signature; it gives no last state, which training does not read."""
    from mambapy.mamba import MambaBlock

    assert h0 is None
    y: Tensor = MambaBlock.selective_scan(cast(Any, None), u, delta, A, B, C, D)
    return y, u.new_zeros(())


def _named(name: str) -> Scan:
    run_it = dispatch.selective_scan
    return lambda *args: run_it(*args, backend=cast(Any, name))
