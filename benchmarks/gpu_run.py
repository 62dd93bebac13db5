"""Everything that only a GPU can show, in one command and one file: `make gpu`, or `python benchmarks/gpu_run.py --out FILE.json`.

Runs the tests of `tests/gpu` and the benchmarks of `MODULES`, each in a process of its own, and writes after every one what
is known by then: device, versions, the outcome of each test, the rows of each benchmark. A crash of one hides no other.

Exit codes: 0 all passed; 1 a test or a benchmark failed; 77 there is no CUDA device, and nothing was run.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1] / "tests" / "gpu"
MODULES = ("gpu_kernels", "gpu_loop")
VERSIONS = (
    "torch",
    "triton",
    "vllm",
    "transformers",
    "peft",
    "mamba-ssm",
    "liger-kernel",
    "flash-attn",
    "numpy",
    "instar",
)
NO_DEVICE = 77
PART_S = 3 * 3600


class Recorder:
    """A plugin of pytest that keeps the outcome of every test; what is skipped says why."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a phase of a test; the first that did not pass decides."""
        known = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        known["seconds"] = round(known["seconds"] + report.duration, 2)
        if report.outcome != "passed" and known["outcome"] == "passed":
            known |= {"outcome": report.outcome, "message": said(report)}

    def pytest_collectreport(self, report: Any) -> None:
        """Note a module that was skipped or could not be read."""
        if report.outcome != "passed":
            self.tests[report.nodeid] = {"outcome": report.outcome, "seconds": 0.0, "message": said(report)}


def said(report: Any) -> str:
    """Return the end of what a test said."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return str(text)[-2000:]


def test_part(folder: Path) -> dict[str, Any]:
    """Run the tests of a folder in this process."""
    import pytest

    recorder = Recorder()
    code = pytest.main([str(folder), "-q", "-p", "no:cacheprovider", "--override-ini=addopts="], plugins=[recorder])
    rows = [{"test": name, **found} for name, found in sorted(recorder.tests.items())]
    return {"exit": int(code), "tests": rows}


def benchmark_part(name: str) -> dict[str, Any]:
    """Run a benchmark in this process."""
    began = time.perf_counter()
    rows = importlib.import_module(name).run()
    return {"seconds": round(time.perf_counter() - began, 1), "rows": rows}


def part(name: str, seconds: float = PART_S) -> dict[str, Any]:
    """Return what a part wrote, run in a process of its own, or why it wrote nothing."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, __file__, "--part", name, "--out", str(out)]
        try:
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"no end after {seconds:g} s"}
        sys.stderr.write(done.stderr)
        if not out.is_file():
            return {"error": f"exit code {done.returncode}: {done.stderr[-2000:]}"}
        return dict(json.loads(out.read_text()))


def machine() -> dict[str, Any]:
    """Return the device, the machine around it and the versions of what runs on it."""
    import torch
    from run import machine as host

    found: dict[str, Any] = {"host": host(), "device": None, "versions": {name: version(name) for name in VERSIONS}}
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        found["device"] = {
            "name": facts.name,
            "count": torch.cuda.device_count(),
            "memory_gib": round(facts.total_memory / 2**30, 1),
            "capability": [facts.major, facts.minor],
            "cuda": torch.version.cuda,
            "nccl": list(importlib.import_module("torch.cuda.nccl").version()),
        }
    return found


def version(name: str) -> str | None:
    """Return the installed version of a package, None where it is not."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def failed(result: dict[str, Any]) -> list[str]:
    """Return the names of what failed."""
    tests = result["tests"]
    names = [row["test"] for row in tests.get("tests", ()) if row["outcome"] == "failed"]
    names += ["tests"] if "error" in tests or tests.get("exit") not in (0, 1, None) else []
    for name, found in result["benchmarks"].items():
        names += [name] if "error" in found else []
        names += [f"{name}: {row.get('row', row)}" for row in found.get("rows", ()) if row.get("met") is False]
    return names


def everything(out: Path) -> int:
    """Run all parts, write the file after each, and say what failed."""
    result: dict[str, Any] = {"machine": machine(), "tests": {}, "benchmarks": {}}
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in ("tests", *MODULES):
        found = part(name)
        if name == "tests":
            result["tests"] = found
        else:
            result["benchmarks"][name] = found
        result["failed"] = failed(result)
        out.write_text(json.dumps(result, indent=1) + "\n")
    counted = [row["outcome"] for row in result["tests"].get("tests", ())]
    shares = ", ".join(f"{counted.count(kind)} {kind}" for kind in ("passed", "failed", "skipped"))
    print(f"tests: {shares}; benchmarks: {len(MODULES)}; written to {out}")
    for name in result["failed"]:
        print(f"failed: {name}")
    return 1 if result["failed"] else 0


def main() -> int:
    """Run everything, or one part in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="JSON file to write")
    parser.add_argument("--ready", action="store_true", help="only say whether there is a device")
    parser.add_argument("--part", choices=("tests", *MODULES), help="run this one alone, in this process")
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(
            "no CUDA device: nothing was tested or measured. Run this on a machine with an NVIDIA GPU and a torch built for it "
            f"(here: torch {torch.__version__}); `instar doctor` says what is missing. {args.out} was not written.",
            file=sys.stderr,
        )
        return NO_DEVICE
    if args.ready:
        return 0
    if args.part is None:
        return everything(args.out)
    found = test_part(TESTS) if args.part == "tests" else benchmark_part(args.part)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
