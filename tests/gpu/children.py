"""Runs the cases of a module in a fresh process: the interpreter is chosen when Triton is first imported.

As a program: `python -m gpu.children MODULE[:NAME] [CASE ...]` runs the named cases of MODULE.NAME, CASES if not named, on the
CPU and writes {case: traceback or ""}. Without a case it runs all.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRITON_PLATFORM = platform.system() == "Linux" and platform.machine() == "x86_64"
TESTS = Path(__file__).parents[1]


def outcomes(module: str, cache: Path, cases: Iterable[str] = (), *, interpret: bool) -> dict[str, str]:
    """Return the traceback of each case of `gpu.<module>`, empty for those that passed; module and cases are as above."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(cache)}
    env["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [env.get("PYTHONPATH")])])
    env["TRITON_INTERPRET"] = "1" if interpret else "0"
    command = [sys.executable, "-m", "gpu.children", f"gpu.{module}", *cases]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    result: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill every uninitialised tensor with NaN, so that reading one shows in a result."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        assert torch.empty(3).isnan().all() and torch.ones(1).new_empty(2, dtype=torch.bfloat16).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def close(ours: Tensor, exact: Tensor, tolerance: float, what: str, least: float = 1e-6) -> None:
    """Assert that the largest difference is within `tolerance` of the largest entry, taken as `least` if smaller."""
    assert ours.shape == exact.shape, (what, ours.shape, exact.shape)
    if exact.numel():
        gap = float((ours.detach().double() - exact.detach().double()).abs().max())
        assert gap <= tolerance * max(float(exact.detach().abs().max()), least), (what, gap)


def mend_interpreter() -> None:
    """Put right what Triton 3.7.1's interpreter does to bfloat16, which it stores as integers.

    Its matrix product multiplies the integers, and its conversion from float32 truncates where the device rounds.
    """
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    tl = importlib.import_module("triton.language")
    convert, dot = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def exact_convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(data, source, target, rounding)
        return torch.from_numpy(np.array(data, dtype=np.float32)).bfloat16().view(torch.uint16).numpy()

    def exact_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [
            interpreter.TensorHandle(convert(x.data, x.dtype, tl.float32, None).view(np.float32), tl.float32)
            if x.dtype == tl.bfloat16
            else x
            for x in (a, b)
        ]
        return dot(self, *wide, *rest)

    interpreter._convert_float, interpreter.InterpreterBuilder.create_dot = exact_convert, exact_dot


def main() -> None:
    """Run every case; a failing one does not stop the others."""
    torch.set_num_threads(1)
    if os.environ.get("TRITON_INTERPRET") == "1":
        mend_interpreter()
    module, _, table = sys.argv[1].partition(":")
    found = {}
    cases = getattr(importlib.import_module(module), table or "CASES")
    for name in sys.argv[2:] or cases:
        try:
            with poisoned():
                cases[name]("cpu")
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
