"""Print, for every evaluation of a run, what the judge says and how many answers are equal to the reference."""

import json
import sys
from pathlib import Path

from instar.artifact import Evaluation, Tasks
from instar.workspace import open_workspace

run = open_workspace(Path(sys.argv[1]))
stages = list(run.ledger.of("stage"))
tasks = Tasks(run.cas.get(stages[0].body["outputs"]["tasks"])).read()
expected = {task.task_id: json.loads(task.reference)["answer"] for task in tasks}
for entry in stages:
    if entry.body["stage"] == "evaluate":
        rows = Evaluation(run.cas.get(entry.body["outputs"]["evaluation"])).read()
        judged = sum(row.score or 0.0 for row in rows) / len(rows)
        right = sum(row.answer.strip() == expected[row.task_id] for row in rows) / len(rows)
        sys.stdout.write(f"{rows[0].split:4} {len(rows):4} answers   judge {judged:.3f}   truth {right:.3f}\n")
