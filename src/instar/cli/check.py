"""`instar check FILE:NAME`: is a reward sound, does a curriculum keep its protocol? It takes seconds, and nothing is trained."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.artifact import Code, QualityReport
from instar.bundle import bundle
from instar.cli.own import parse_reward
from instar.cli.sample_rows import samples
from instar.components.curriculum.config import OwnConfig
from instar.components.curriculum.own import Own
from instar.components.curriculum.protocol_checks import problems
from instar.components.reward.check_functions import check_functions
from instar.components.reward.findings import Finding, Soundness, lines
from instar.components.reward.function_config import FunctionConfig
from instar.components.sandbox.config import SandboxConfig
from instar.components.sandbox.sandbox import Sandbox
from instar.errors import ConfigError
from instar.manifest import manifest_of
from instar.store_files import make_folder
from instar.terminal import say

SOUND, RED = 0, 1


def check(
    entries: Sequence[str],
    tasks: Path | None,
    style: str,
    out: Path | None,
    requirements: Path | None,
    allow: Sequence[str],
    as_json: bool,
) -> int:
    """Check reward functions on rows, or a curriculum class, and print the report. Return 0 if nothing is red, otherwise 1."""
    began = time.perf_counter()
    sandbox: SandboxConfig = configs.from_dict(SandboxConfig, {"allow": list(allow)}, where="--")
    with tempfile.TemporaryDirectory(prefix="instar-check-") as temporary:
        folder = Path(temporary)
        functions = [parse_reward(text) for text in entries]
        relative = bundle([function["entry"] for function in functions], folder / "code", requirements=requirements)
        code = Code(folder / "code", manifest_of(folder / "code", "Code").digest)
        if len(relative) == 1 and _is_class(code, relative[0], sandbox):
            report, on = check_strategy(code, relative[0], sandbox), "the protocol of curricula"
        else:
            config = [FunctionConfig(**{**f, "entry": entry}) for f, entry in zip(functions, relative, strict=True)]
            rows = samples(_required(tasks), folder / "tasks")
            report, on = check_functions(config, code, sandbox, rows, style), f"{tasks}"
    if out is not None:
        make_folder(out)
        QualityReport(out).write_json("quality.json", report)
    if as_json:
        say(json.dumps(report, sort_keys=True) + "\n")
    else:
        _say_report(report, f"{' '.join(relative)} on {on}", time.perf_counter() - began)
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
