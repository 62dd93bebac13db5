"""What `instar check` found: the findings with their rows, what a run refuses, and the lines of the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instar.errors import RewardError

Severity: TypeAlias = Literal["red", "yellow"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check noticed, at its first row. `rows` of `of` rows have it."""

    check: str
    severity: Severity
    expected: str
    found: str
    where: str
    action: str
    rows: int = 0
    of: int = 0


@dataclass(frozen=True, kw_only=True)
class Soundness:
    """The findings, red ones first, what was measured, and the checks that ran."""

    findings: tuple[Finding, ...]
    numbers: dict[str, float]
    checks: tuple[str, ...]

    @property
    def red(self) -> tuple[Finding, ...]:
        """The findings that a run refuses."""
        return tuple(finding for finding in self.findings if finding.severity == "red")

    def to_json(self, **about: Any) -> dict[str, Any]:
        """Return the content of `quality.json`."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return {
            "success": not self.red,
            "kind": "reward",
            "checks": list(self.checks),
            "findings": findings,
            "numbers": self.numbers,
            **about,
        }


def require_sound(report: Mapping[str, Any], accept: bool) -> dict[str, Any]:
    """Return what the opening entry of a ledger says about a report: which checks are red, and whether the user accepts that.

    Raises `RewardError` for red findings unless `accept`.
    """
    red = [finding for finding in report["findings"] if finding["severity"] == "red"]
    if red and not accept:
        more = f", and {len(red) - 1} more red findings" if len(red) > 1 else ""
        raise RewardError(
            expected=red[0]["expected"],
            found=f"{red[0]['found']}{more}",
            where=f"{report['scorer']}, {red[0]['where']}",
            action=f"{red[0]['action']}; `instar check` shows all; --accept-check runs all the same, and the ledger says so",
        )
    return {"red": sorted({finding["check"] for finding in red}), "accepted": bool(red)}


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a report as lines for a terminal: findings first, then what was measured."""
    for finding in report["findings"]:
        count = f" ({finding['rows']} of {finding['of']})" if finding["of"] else ""
        yield f"{finding['severity'].upper():<6} {finding['check']}{count}"
        yield f"  expected: {finding['expected']}"
        yield f"  found:    {finding['found']}"
        yield f"  at:       {finding['where']}"
        yield f"  do:       {finding['action']}"
    for name, number in report["numbers"].items():
        yield f"{name:<22} {number:.4g}"
