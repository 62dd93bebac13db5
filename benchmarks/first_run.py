"""From an empty environment to a gated champion that transformers loads, with a stopwatch: what a new user does first.

    python benchmarks/first_run.py              a new virtual environment, then the example in examples/units
    python benchmarks/first_run.py --here       the same in the environment of this Python
    python benchmarks/first_run.py --containers also every task in a container; the ledger has to be the same

It prints a line per part, fails if the whole takes longer than the bar of five minutes, and needs the standard library only. The
containers are not part of the five minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "units"
BAR_S = 300.0
RUN = [
    *("run", "sec", "--tasks", str(EXAMPLE / "units.jsonl"), "--reward", f"{EXAMPLE / 'rew.py'}:reward"),
    *("--set", "iterations=8", "--tracking", "off"),
]
LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer("37 km in m = ", return_tensors="pt", add_special_tokens=False).input_ids
print("37 km in m =", tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]))
"""


class Stopwatch:
    """Runs commands, prints what each part took, and adds up."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def part(self, name: str, *commands: list[str]) -> str:
        """Run the commands of a part and return what they print. A command that fails ends the script."""
        began, said = time.perf_counter(), ""
        for command in commands:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            said += done.stdout
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
        self.parts[name] = time.perf_counter() - began
        print(f"{name:<14} {self.parts[name]:7.1f} s", flush=True)
        return said


def main() -> None:
    """Measure all parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="do not make an environment")
    parser.add_argument("--containers", action="store_true", help="also run in containers and compare the ledgers")
    options = parser.parse_args()
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="first-run-") as folder:
        place = Path(folder)
        python = sys.executable
        if not options.here:
            python = str(place / "venv" / "bin" / "python")
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            watch.part(
                "environment",
                [sys.executable, "-m", "venv", str(place / "venv")],
                [*pip, "torch==2.13.0"],
                [*pip, f"{ROOT}[text]"],
            )
        instar = [str(Path(python).with_name("instar"))]
        watch.part("run", [*instar, *RUN, "--out", str(place / "run")])
        watch.part("export", [*instar, "export", str(place / "run"), "-o", str(place / "model")])
        answer = watch.part("load", [python, "-c", LOAD, str(place / "model")])
        total = sum(watch.parts.values())
        shown = json.loads(watch.part("show", [*instar, "show", str(place / "run"), "--json"]))
        print(f"{'in all':<14} {total:7.1f} s\n{answer.strip().splitlines()[-1]}\nchampion {shown['champion']}")
        promoted = shown["champion"] != shown["base"] if "base" in shown else True
        if not (place / "run" / "report.html").is_file() or not promoted:
            raise SystemExit("no report, or the gate promoted nothing")
        if options.containers:
            watch.part("containers", [*instar, *RUN, "--mode", "containers", "--out", str(place / "boxed")])
            watch.part("diff", [*instar, "diff", str(place / "run"), str(place / "boxed")])
            print("the ledger of the run in containers is the same")
        if total > BAR_S:
            raise SystemExit(f"{total:.0f} s, more than the bar of {BAR_S:.0f} s")


if __name__ == "__main__":
    main()
