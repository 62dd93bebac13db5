"""All benchmarks as one command: `python benchmarks/run.py [--only NAME ...] --out FILE.json`.

Each module of `MODULES` has `run() -> list of rows`. Rows compare ways of doing the same work in one run on one
machine, which is written beside them: a time means nothing without it. Exit code 1 when a row misses its `bar`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from instar.code import code_version

MODULES = (
    "cli_start",
    "logprob_memory",
    "packing",
    "runner_overhead",
    "tracking_share",
    "group_sampling",
    "bandit_demos",
    "selective_scan",
    "continuous_step",
    "continuous_episodes",
    "update_speed",
    "decoding",
    "plan_accuracy",
    "reward_call",
)


def machine() -> dict[str, Any]:
    """Return what the numbers come from."""
    import torch

    model = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "code": code_version(),
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> int:
    """Run the benchmarks, write the file, print a line per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=MODULES, help="run this one; may be repeated")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "benchmarks": {}}
    bad = 0
    for name in args.only or MODULES:
        began = time.perf_counter()
        try:
            rows = importlib.import_module(name).run()
        except Exception as error:  # one broken benchmark must not hide the others; it is written and counted
            traceback.print_exc()
            rows = [{"error": f"{type(error).__name__}: {error}", "met": False}]
        result["benchmarks"][name] = {"seconds": round(time.perf_counter() - began, 1), "rows": rows}
        for row in rows:
            bad += row.get("met") is False
            print(name, json.dumps(row), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {args.out}; {bad} rows miss their bar")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
