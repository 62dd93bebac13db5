"""Start of the command line: `instar --help` and `import instar` against an interpreter that does nothing.

Byte code is cached, as it is after the first start of an installed package.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from timing import Cost, compare, interleave, medians

BAR_S = 0.3
COMMANDS = {"nothing": ["-c", "pass"], "import": ["-c", "import instar"], "help": ["-m", "instar", "--help"]}


def run() -> list[dict[str, Any]]:
    """Return one row per command; `met` compares the CPU seconds with the bar, which other load cannot change much."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        costs = interleave({n: lambda w=words: start(w, environment) for n, words in COMMANDS.items()}, repeats=11)
    rows = []
    for name in ("import", "help"):
        row = {"row": name, **medians(costs[name]), **compare(costs[name], costs["nothing"])}
        rows.append(row if name == "import" else {**row, "bar": f"< {BAR_S} s", "met": row["cpu_s"] < BAR_S})
    return rows


def start(words: list[str], environment: dict[str, str]) -> Cost:
    """Run the interpreter once and return what it cost."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], env=environment, check=True, stdout=subprocess.DEVNULL)
    took, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
