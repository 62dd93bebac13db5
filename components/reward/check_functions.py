"""The checks of a user's reward functions: their scores of known answers in a sandbox, and their source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instar.artifact import Code
from instar.components.reward.findings import Finding, Soundness
from instar.components.reward.function_config import FunctionConfig
from instar.components.reward.functions import Functions
from instar.components.reward.probes import Sample
from instar.components.reward.soundness import Scorer, check
from instar.components.reward.source_checks import check_sources
from instar.components.sandbox.config import SandboxConfig
from instar.resident import Resident


def check_functions(
    config: Sequence[FunctionConfig], code: Code, sandbox: SandboxConfig, rows: Sequence[Sample], style: str
) -> dict[str, Any]:
    """Return the content of a `QualityReport` for reward functions on these rows. `findings` holds what they do wrong."""
    functions = Functions(config, code, sandbox, Resident())

    def open_scorer() -> Scorer:
        fresh = Functions(config, code, sandbox, Resident())
        return lambda attempts: fresh.score(attempts, None)

    if functions.needs_policy:
        sound = Soundness(findings=(_asks(functions.config[0]),), numbers={}, checks=())
    else:
        sound = check(open_scorer, rows, style)
    files = code.read_json("code.json")["files"]
    sources = {name: (code.path / "files" / name).read_text("utf-8") for name in files if name.endswith(".py")}
    checks = (*sound.checks, "source")
    whole = Soundness(findings=(*sound.findings, *check_sources(sources)), numbers=sound.numbers, checks=checks)
    return whole.to_json(scorer=functions.scorer(None), code=code.digest, rows=len(rows), style=style)


def _asks(function: FunctionConfig) -> Finding:
    return Finding(
        check="policy",
        severity="yellow",
        expected="a reward that can be checked without a policy",
        found="the parameter `policy`",
        where=function.entry,
        action="nothing: only the source was checked. Look at the first scores of the run yourself",
    )
