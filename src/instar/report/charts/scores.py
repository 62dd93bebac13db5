"""Charts of scores over iterations: the climb of every arm, the macro mean with gate decisions, one small chart per arm."""

from __future__ import annotations

from typing import Any

import altair as alt

from instar.report.charts.style import Chart, Level, band, ends, legend, levels, row, specification, tooltip, values
from instar.report.data import MASTERED, Data

GATE_MARKS = {
    "promoted": ("#009E73", "circle"),
    "continue": ("#999999", "circle"),
    "hold": ("#E69F00", "square"),
    "rollback": ("#D55E00", "triangle-down"),
    "stop": ("#0072B2", "diamond"),
}
MOST_ARMS = 30
"""Arms drawn one by one; the rest stay in the heat strip."""


def climb(data: Data) -> Chart | None:
    """Accuracy of every arm after every iteration: one row per arm, hardest on top. Episodes have no ladder of arms."""
    rows = [row(a) for a in data.curve if a.arm]
    if not rows or data.continuous:
        return None
    last = max(a.iteration for a in data.curve)
    order = [a.name for a in reversed(data.arms) if any(r["arm"] == a.name for r in rows)]
    height = max(120, min(30, max(13, 420 // len(order))) * len(order)) + 100  # axis and legend
    base = alt.Chart(values(rows)).encode(
        x=alt.X("iteration:O", title="iteration", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("arm:N", sort=order, title=None),
    )
    bar = alt.Legend(orient="bottom", direction="horizontal", gradientLength=160, format="%")
    cells = base.mark_rect().encode(
        color=alt.Color("value:Q", title="accuracy", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=bar),
        tooltip=tooltip("arm:N", "iteration:Q", "value:Q", "low:Q", "high:Q"),
    )
    done = (
        alt.Chart(values([r for r in rows if r["value"] >= MASTERED]))
        .mark_point(shape="circle", filled=True, size=14, color="#222222", opacity=0.8)
        .encode(x="iteration:O", y=alt.Y("arm:N", sort=order))
    )
    says = f"Heat strip of {len(order)} arms over {last} iterations. "
    says += f"Mastered: {data.mastered(0)} at the start, {data.mastered(last)} at the end."
    return Chart(key="climb", title="The climb", says=says, spec=specification(alt.layer(cells, done), height))


def macro(data: Data) -> Chart | None:
    """Macro score with its interval, gate decisions on top; of episodes with the levels of a random policy and the expert."""
    rows = [row(a) for a in data.curve if not a.arm]
    if not rows:
        return None
    if data.continuous is None:
        title, what, layers = "Mean accuracy over all arms", "Macro accuracy", band(rows, (0.0, 1.0), "%")
    else:
        title = what = "Normalised score"
        low, high = min(0.0, *(r["low"] for r in rows)), max(1.0, *(r["high"] for r in rows))
        room = 0.06 * (high - low)
        anchors = [Level(value=0.0, label="random policy", side="right", above=False), Level(value=1.0, label="expert")]
        layers = [
            *levels(anchors, dash=(2, 3), color="#888888"),
            *band(rows, (low - room, high + room), ".2f"),
        ]
    first, final = rows[0]["value"], rows[-1]["value"]
    says = f"{what} on the validation tasks from {first:.3f} to {final:.3f}, with interval and gate decisions."
    chart = alt.layer(*layers, _gates(data, {r["iteration"]: r["value"] for r in rows}))
    return Chart(key="macro", title=title, says=says, spec=specification(chart, 300))


def _gates(data: Data, at: dict[int, float]) -> alt.Chart:
    marks = [
        {
            "iteration": g.iteration,
            "value": at[g.iteration],
            "decision": "promoted" if g.promoted else g.action,
            "reason": g.reason,
        }
        for g in data.gates
        if g.iteration in at
    ]
    kinds = [kind for kind in GATE_MARKS if any(m["decision"] == kind for m in marks)]
    made: alt.Chart = (
        alt.Chart(values(marks))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x="iteration:Q",
            y="value:Q",
            color=alt.Color(
                "decision:N",
                title=None,
                legend=legend(),
                scale=alt.Scale(domain=kinds, range=[GATE_MARKS[k][0] for k in kinds]),
            ),
            shape=alt.Shape(
                "decision:N",
                title=None,
                legend=legend(),
                scale=alt.Scale(domain=kinds, range=[GATE_MARKS[k][1] for k in kinds]),
            ),
            tooltip=["iteration:Q", "decision:N", "reason:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    return made


def per_arm(data: Data) -> list[Chart | None]:
    """Return a small chart per arm, `arm-0` and on, for recipes whose arms are levels to master."""
    if data.continuous:
        return []
    arms = [a for a in data.arms if any(p.arm == a.name for p in data.curve)][:MOST_ARMS]
    return [_arm(data, i, arm.name) for i, arm in enumerate(arms)]


def _arm(data: Data, number: int, name: str) -> Chart:
    rows: list[dict[str, Any]] = [row(a) for a in data.curve if a.arm == name]
    says = f"Accuracy of {name}: {ends([r['value'] for r in rows])}."
    chart = alt.layer(*band(rows, (0.0, 1.0), "%", small=True))
    return Chart(key=f"arm-{number}", title=name, says=says, spec=specification(chart, 96))
