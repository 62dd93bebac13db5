"""A user's reward function in a sandbox against the same function called in this process, interleaved, with equal results.

The rows have the size of real ones: a prompt of 400 characters, a completion of 800, and a reference of three columns. Three
functions are compared: one compares two texts, one takes about 0.1 ms, and a batch function gets all rows in one call.
The cost beyond the function is the difference of the processor time of both processes, per row: the median over pairs, and the
difference of the smallest times, which other work on the machine disturbs least. The wall time is beside it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import Cost, interleave, medians

from instar.artifact import Code
from instar.components.reward.function_config import FunctionConfig
from instar.components.reward.functions import Attempt, Functions
from instar.components.sandbox.code_folder import write_code
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.sandbox import SANDBOX, Sandbox
from instar.resident import Resident

ROWS, REPEATS, BAR_US, START_BAR_S = 2048, 25, 20.0, 0.3
SOURCE = """
import re

def compare(answer, reference):
    return answer.strip() == reference["answer"]

def search(completion, reference):
    numbers = re.findall(r"-?[0-9]+", completion * 4)
    return numbers[-1] == reference["answer"]

def batch(completions, answer, **columns):
    return [float(completion[-3:].strip() == one) for completion, one in zip(completions, answer)]
"""


def attempts() -> list[Attempt]:
    """Return rows, half of them right."""
    rows = []
    for n in range(ROWS):
        said = str(n if n % 2 else n + 1)
        rows.append(
            Attempt(
                answer=said,
                completion=("reason " * 113 + said)[-800:],
                prompt="question " * 44,
                reference={"answer": str(n), "topic": "sums", "source": "made here"},
                task={"task_id": f"a/train/{n}", "arm": "a", "domain": "sums", "level": 1.0, "form": "text"},
            )
        )
    return rows


def bare(name: str) -> Callable[[list[Attempt]], list[float]]:
    """Return what calls the function in this process."""
    space: dict[str, Any] = {}
    exec(SOURCE, space)
    function = space[name]
    if name == "batch":
        return lambda rows: function([a.completion for a in rows], [a.reference["answer"] for a in rows])
    part = "answer" if name == "compare" else "completion"
    return lambda rows: [float(function(getattr(a, part), a.reference)) for a in rows]


def child_cpu_s(sandbox: Sandbox) -> float:
    """Return the processor time of the sandbox's process so far."""
    spent = Path(f"/proc/{sandbox._workers[0].process.pid}/schedstat").read_text()
    return int(spent.split()[0]) / 1e9


def timed(call: Callable[[], Any], child: Callable[[], float]) -> Cost:
    """Return what a call cost both processes."""
    wall, cpu, other = time.perf_counter(), time.process_time(), child()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu + child() - other)


def measure(code: Code, name: str, rows: list[Attempt]) -> dict[str, Any]:
    """Return one result row; `beyond_us` is the median over pairs of the difference in processor time per row."""
    resident, function = Resident(), bare(name)
    functions = Functions([FunctionConfig(entry=f"rew.py:{name}")], code, SandboxConfig(), resident)
    sandbox = functions._sandbox
    if function(rows) != [verdict.reward for verdict in functions.score(rows)]:  # type: ignore[union-attr]
        raise AssertionError(f"{name}: the results differ")
    part = {"compare": "answer", "search": "completion"}.get(name)
    passed = [{"reference": a.reference, part: getattr(a, part)} for a in rows] if part else []
    sides = {
        "bare": lambda: timed(lambda: function(rows), lambda: 0.0),
        "calls": lambda: timed(lambda: sandbox.calls(f"rew.py:{name}", passed), lambda: child_cpu_s(sandbox)),
        "score": lambda: timed(lambda: functions.score(rows), lambda: child_cpu_s(sandbox)),
    }
    if not part:
        del sides["calls"]
    costs = interleave(sides, REPEATS)
    sandbox.close()
    resident.drop_all(SANDBOX)
    row: dict[str, Any] = {"row": name, "rows": ROWS, "bare_us": 1e6 * medians(costs["bare"])["cpu_s"] / ROWS}
    for side in sides:
        if side != "bare":
            pairs = list(zip(costs[side], costs["bare"], strict=True))
            row[f"{side}_beyond_us"] = statistics.median(1e6 * (a.cpu_s - b.cpu_s) / ROWS for a, b in pairs)
            least = min(cost.cpu_s for cost in costs[side]) - min(cost.cpu_s for cost in costs["bare"])
            row[f"{side}_beyond_least_us"] = 1e6 * least / ROWS
            row[f"{side}_beyond_wall_us"] = statistics.median(1e6 * (a.wall_s - b.wall_s) / ROWS for a, b in pairs)
    beyond = row["calls_beyond_us" if part else "score_beyond_us"]
    return {**row, "bar": f"<= {BAR_US:g} us of processor time beyond the function", "met": beyond <= BAR_US}


def start(code: Code) -> dict[str, Any]:
    """Return the time from nothing to the first result. The bar is for the processor time, which other load hardly changes."""
    costs = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        with Sandbox(code, SandboxConfig()) as sandbox:
            sandbox.calls("rew.py:compare", [{"answer": "1", "reference": {"answer": "1"}}])
            costs.append(Cost(time.perf_counter() - wall, time.process_time() - cpu + child_cpu_s(sandbox)))
    row = {"row": "start", **medians(costs)}
    return {**row, "bar": f"<= {START_BAR_S} s", "met": row["cpu_s"] <= START_BAR_S}


def run() -> list[dict[str, Any]]:
    """Return one row per function, and one for the start of a sandbox."""
    with tempfile.TemporaryDirectory() as folder:
        write_code(Path(folder), {"rew.py": SOURCE}, [])
        code, rows = Code(Path(folder), "bench"), attempts()
        return [*(measure(code, name, rows) for name in ("compare", "search", "batch")), start(code)]


if __name__ == "__main__":
    import json

    for row in run():
        print(json.dumps(row))
