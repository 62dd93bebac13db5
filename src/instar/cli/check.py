"""`instar check FILE:NAME`: is a reward sound, does a curriculum keep its protocol? It takes seconds, and nothing is trained."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar import schema
from instar.artifact import Code, ImportedTasks, QualityReport
from instar.bundle import bundle
from instar.components.curriculum.config import OwnConfig
from instar.components.curriculum.own import Own
from instar.components.curriculum.protocol_checks import problems
from instar.components.dataset_prep.imported.cells import Reader
from instar.components.dataset_prep.imported.importer import Imported, import_tasks
from instar.components.dataset_prep.imported.source import open_source
from instar.components.reward.check_functions import check_functions
from instar.components.reward.function_config import FunctionConfig
from instar.components.reward.probes import Sample
from instar.components.reward.soundness import Finding, Soundness, lines
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.sandbox import Sandbox
from instar.errors import ConfigError
from instar.manifest import manifest_of
from instar.rows import TaskRow
from instar.store_files import make_folder
from instar.terminal import say

SOUND, RED = 0, 1
MOST_ROWS = 2000
"""How many rows are looked at for leaks of the reference. Fewer of them are scored."""


def check(
    entry: str,
    tasks: Path | None,
    style: str,
    out: Path | None,
    requirements: Path | None,
    allow: Sequence[str],
    as_json: bool,
) -> int:
    """Check a reward function on rows, or a curriculum class, and print the report. Return 0 if nothing is red, otherwise 1."""
    began = time.perf_counter()
    sandbox: SandboxConfig = configs.from_dict(SandboxConfig, {"allow": list(allow)}, where="--")
    with tempfile.TemporaryDirectory(prefix="instar-check-") as temporary:
        folder = Path(temporary)
        (relative,) = bundle([entry], folder / "code", requirements=requirements)
        code = Code(folder / "code", manifest_of(folder / "code", "Code").digest)
        if _is_class(code, relative, sandbox):
            report, on = check_strategy(code, relative, sandbox), "the protocol of curricula"
        else:
            rows = samples(_required(tasks), folder / "tasks")
            report, on = check_functions([FunctionConfig(entry=relative)], code, sandbox, rows, style), f"{tasks}"
    if out is not None:
        make_folder(out)
        QualityReport(out).write_json("quality.json", report)
    if as_json:
        say(json.dumps(report, sort_keys=True) + "\n")
    else:
        _say_report(report, f"{relative} on {on}", time.perf_counter() - began)
    return SOUND if report["success"] else RED


def _is_class(code: Code, entry: str, config: SandboxConfig) -> bool:
    with Sandbox(code, config) as sandbox:
        return sandbox.signature(entry).is_class


def _required(tasks: Path | None) -> Path:
    if tasks is None:
        raise ConfigError(
            expected="--tasks PATH, because a reward is checked on its rows",
            found="nothing",
            where="--tasks",
            action="name the file of rows, or a folder of `instar import`",
        )
    return tasks


def check_strategy(code: Code, entry: str, config: SandboxConfig) -> dict[str, Any]:
    """Return the content of a `QualityReport` for a curriculum class: what of the protocol it does not keep."""
    with Sandbox(code, config) as sandbox:
        strategy = OwnConfig(prompts=1, group_size=2, entry=entry, sandbox=config)
        errors = list(problems(lambda arms: Own(strategy, sandbox, arms)))
    findings = [
        Finding(check="protocol", severity="red", expected=e.expected, found=e.found, where=entry, action=e.action)
        for e in errors
    ]
    sound = Soundness(findings=tuple(findings), numbers={}, checks=("protocol",))
    return sound.to_json(kind="curriculum", scorer=entry, code=code.digest)


def _say_report(report: dict[str, Any], what: str, seconds: float) -> None:
    for line in lines(report):
        say(line + "\n")
    counts = {severity: sum(f["severity"] == severity for f in report["findings"]) for severity in ("red", "yellow")}
    verdict = "sound" if report["success"] else "not sound"
    say(f"{what}: {verdict}, {counts['red']} red, {counts['yellow']} yellow, in {seconds:.1f} s\n")


def samples(tasks: Path, folder: Path) -> list[Sample]:
    """Return up to `MOST_ROWS` rows, evenly spread. If `tasks` is no folder of imported tasks, it is imported into `folder`."""
    imported: Imported | None = None
    if not (tasks / "import.json").exists():
        imported = import_tasks(str(tasks), folder)
    table = ImportedTasks(folder if imported else tasks).table()
    count = min(MOST_ROWS, len(table))
    rows = list(schema.from_table(TaskRow, table.take([index * len(table) // count for index in range(count)])))
    places = _places(str(tasks), imported, {row.content_hash for row in rows}) if imported else {}
    return [_sample(row, places.get(row.content_hash, f"{tasks}/rows.parquet")) for row in rows]


def _sample(row: TaskRow, place: str) -> Sample:
    reference = json.loads(row.reference)
    task = {name: getattr(row, name) for name in ("task_id", "arm", "domain", "level", "split", "form")}
    return Sample(task_id=row.task_id, place=place, prompt=row.prompt, reference=reference, task=task)


def _places(path: str, imported: Imported, wanted: set[str]) -> dict[str, str]:
    """Return content hash -> file and row, for the rows that are wanted."""
    return {digest: place for digest, place in _contents(path, imported) if digest in wanted}


def _contents(path: str, imported: Imported) -> Iterator[tuple[str, str]]:
    reader = Reader(columns=imported.columns, form=imported.config.form)
    for part in open_source(path, imported.columns.drop).parts:
        for batch in part.read():
            for number, row in batch:
                yield reader.task(row, part, number).content.hex(), part.place(number)
