"""A million rows of a user: import, preparation, and the reads of curriculum and rollout. Each in a process of its own.

    python benchmarks/import_rows.py --rows 1000000 --out benchmarks/results/import_rows.json

A row is about 180 bytes of JSON: a question of 22 words, an answer, a topic, a number. `peak_mb` is the largest resident memory of
the process, `start_mb` what it had before the work: Python, Arrow, and for preparation torch and Great Expectations.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from run import machine

BAR_MB = 1024
WORDS = [f"word{n}"[: 2 + n % 6] for n in range(40)]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process took."""

    work: str
    rows: int
    cpu_s: float
    wall_s: float
    start_mb: float
    peak_mb: float


def write_rows(path: Path, count: int) -> None:
    """Write rows that all differ."""
    draw = random.Random(3)
    with path.open("w") as file:
        for n in range(count):
            words = " ".join(draw.choices(WORDS, k=22))
            row = {"question": f"{n}. {words}?", "answer": str(draw.randrange(10**6)), "topic": f"t{n % 7}", "id": n}
            file.write(json.dumps(row) + "\n")


def import_rows(folder: Path) -> Callable[[], object]:
    """Return the import of the rows."""
    from instar.components.dataset_prep.imported.columns import Columns
    from instar.components.dataset_prep.imported.importer import Options, import_tasks

    options = Options(columns=Columns(arm="topic"))
    return lambda: import_tasks(str(folder / "rows.jsonl"), folder / "tasks", options)


def prepare(folder: Path) -> Callable[[], object]:
    """Return the stage dataset_prep on the imported rows, with the shortest warm start."""
    import great_expectations  # noqa: F401
    import torch

    from instar import config as configs
    from instar.artifact import ImportedTasks, Policy, QualityReport, Rollouts, Tasks
    from instar.components.catalog import DATASET_PREP
    from instar.components.dataset_prep.imported_config import config_of
    from instar.components.dataset_prep.stage import Ins, Outs
    from instar.contract import Context
    from instar.pipelines.recipes import method
    from instar.pipelines.recipes.own import adapt

    torch.set_num_threads(1)
    tasks = ImportedTasks(folder / "tasks")
    recipe = adapt(method("sec").recipe("tiny"), config_of(tasks))
    prep = configs.merge(recipe, {"dataset_prep": {"initial": {"warm_start": {"steps": 1}}}}).dataset_prep
    kinds = {"tasks": Tasks, "data": Rollouts, "quality": QualityReport, "policy": Policy}
    outs = Outs(**{name: kind(folder / "out" / name, "") for name, kind in kinds.items()})
    ctx = Context(evolution="benchmark", step=0, stage="dataset_prep", scratch=folder)
    return lambda: DATASET_PREP(Ins(imported=tasks), outs, prep, ctx)


def read_pools(folder: Path) -> Callable[[], object]:
    """Return what the curriculum reads."""
    from instar.artifact import Tasks
    from instar.components.curriculum.pool import read_pools

    return lambda: read_pools(Tasks(folder / "tasks"))


def look_up(folder: Path) -> Callable[[], object]:
    """Return what rollout, reward and evaluation read: the whole table, which then stays, and a batch of it."""
    import pyarrow.parquet as pq

    from instar.artifact import Tasks
    from instar.components.task_table import lookup
    from instar.resident import Resident

    with pq.ParquetFile(folder / "tasks" / "rows.parquet") as file:
        names = next(file.iter_batches(64, columns=["task_id"])).column(0).to_pylist()
    return lambda: lookup({"tasks": Tasks(folder / "tasks", "sha256:0")}, names, Resident())


WORK = {"import": import_rows, "prepare": prepare, "curriculum pools": read_pools, "task table": look_up}


def measure(work: str, folder: Path, rows: int) -> Cost:
    """Do one piece of work in this process and return what it took."""
    do = WORK[work](folder)
    before, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    do()
    took, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    start, peak = before.ru_maxrss / 1024, after.ru_maxrss / 1024
    return Cost(
        work=work, rows=rows, cpu_s=round(cpu, 1), wall_s=round(took, 1), start_mb=round(start), peak_mb=round(peak)
    )


def main() -> None:
    """Write the rows, and measure every piece of work in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", choices=WORK)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(asdict(measure(args.work, args.folder, args.rows))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.jsonl", args.rows)
        costs = []
        for work in WORK:
            words = [sys.executable, __file__, "--rows", str(args.rows), "--work", work, "--folder", folder]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            cost = json.loads(done.stdout.splitlines()[-1])
            costs.append({**cost, "bar": f"< {BAR_MB} MB", "met": cost["peak_mb"] < BAR_MB})
            print(costs[-1])
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": costs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
