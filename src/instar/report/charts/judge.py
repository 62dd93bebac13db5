"""Charts of the policy as a judge: balanced accuracy on the anchors, and accuracy with and without reflection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from instar.report.charts.style import (
    PALETTE,
    Chart,
    Level,
    band,
    ends,
    legend,
    levels,
    row,
    specification,
    values,
)
from instar.report.data import Data

KINDS = {"judge-point": "single answers", "judge-pair": "pairs, both orders"}
GUESSING = Level(value=0.5, label="says the same of everything", side="right", above=False)


def judged(data: Data) -> Chart | None:
    """Balanced accuracy on the anchors with its interval, of each kind as a line, and alarms."""
    if data.judge is None or not any(not s.arm for s in data.judge.anchors):
        return None
    rows = [row(s) for s in data.judge.anchors if not s.arm]
    layers = [*levels([GUESSING], dash=(2, 3), color="#888888"), *band(rows, (0.0, 1.0), "%")]
    kinds: list[dict[str, Any]]
    kinds = [row(s) | {"kind": KINDS.get(s.arm, s.arm)} for s in data.judge.anchors if s.arm]
    if kinds:
        both = [r | {"kind": "mean of both"} for r in rows]
        order = ["mean of both", *dict.fromkeys(r["kind"] for r in kinds)]
        layers.append(_lines(both + kinds, "kind", order, PALETTE))
    at = {r["iteration"]: r["value"] for r in rows}
    alarms = [{"iteration": k, "value": at[k], "reason": reason} for k, reason in data.judge.alarms if k in at]
    if alarms:
        mark = alt.Chart(values(alarms)).mark_point(
            shape="triangle-down", filled=True, size=90, color="#D55E00", opacity=1
        )
        layers.append(mark.encode(x="iteration:Q", y="value:Q", tooltip=["iteration:Q", "reason:N"]))
    says = f"Balanced accuracy of the judge on the anchors {ends([r['value'] for r in rows])}, with interval; .5 is guessing."
    says += f" {len(alarms)} alarms." if alarms else ""
    return Chart(
        key="judge",
        title="The judge, on answers it did not write",
        says=says,
        spec=specification(alt.layer(*layers), 280),
    )


def reflected(data: Data) -> Chart | None:
    """Greedy accuracy on the validation tasks before reflection (line) and after it (band), and where its gate was closed."""
    watched = data.judge.watched() if data.judge is not None else []
    if not watched:
        return None
    rows = [row(r.after) for r in watched]
    both = [r | {"answer": "after"} for r in rows]
    both += [{"iteration": r.iteration, "value": r.plain, "answer": "before"} for r in watched]
    colours = (PALETTE[0], PALETTE[2])
    layers = [*band(rows, (0.0, 1.0), "%", color=PALETTE[2]), _lines(both, "answer", ["before", "after"], colours)]
    closed = [{"iteration": r.iteration, "value": r.plain, "gate": r.reason} for r in watched if not r.open]
    if closed:
        mark = alt.Chart(values(closed)).mark_point(shape="square", filled=False, size=60, color="#E69F00", opacity=1)
        layers.append(mark.encode(x="iteration:Q", y="value:Q", tooltip=["iteration:Q", "gate:N"]))
    says = f"Accuracy before reflection {ends([r.plain for r in watched])}, after it {ends([r.after.value for r in watched])}; "
    says += f"the gate was closed after {len(closed)} of {len(watched)} evaluations."
    title = "Accuracy before and after reflection"
    return Chart(key="reflected", title=title, says=says, spec=specification(alt.layer(*layers), 280))


def _lines(rows: list[dict[str, Any]], by: str, order: list[str], colours: Sequence[str]) -> alt.Chart:
    scale = alt.Scale(domain=order, range=list(colours[: len(order)]))
    made: alt.Chart = (
        alt.Chart(values(rows))
        .mark_line(strokeWidth=1.6, point={"size": 12})
        .encode(
            x="iteration:Q",
            y=alt.Y("value:Q", title=None),
            color=alt.Color(f"{by}:N", sort=order, title=None, scale=scale, legend=legend()),
            tooltip=["iteration:Q", f"{by}:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    return made
