"""What all charts share: colours, axes, legends, bands, and the way a chart becomes a specification.

Colours are safe for colour-blind readers. Sequential: viridis (even steps of lightness). Categories: Okabe and Ito. Text and
grid take the page's colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import altair as alt

from instar.report.data import Data
from instar.report.evaluations import Score

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Ten even steps of the viridis map (van der Walt and Smith 2015)."""
FEW = 60
"""Up to so many points on the x axis are drawn one by one."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A specification with its title and, for those who cannot see it, what it says."""

    key: str
    title: str
    says: str
    spec: dict[str, Any]


def specification(chart: Any, height: int) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart as wide as its container."""
    whole = chart.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )
    made: dict[str, Any] = whole.to_dict()
    made["background"] = "transparent"
    made.pop("config", None)
    return made


def values(rows: Sequence[dict[str, Any]]) -> Any:
    """Return rows as inline data with six digits per number."""
    short = [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    return alt.InlineData(values=short)


def row(point: Score) -> dict[str, Any]:
    """Return a score as a row."""
    return {"iteration": point.iteration, "arm": point.arm, "value": point.value, "low": point.low, "high": point.high}


def tooltip(*names: str, digits: str = ".3f") -> list[Any]:
    """Return tooltips; numbers other than the iteration get `digits`."""
    return [
        alt.Tooltip(n, format=digits) if n.endswith(":Q") and not n.startswith("iteration") else alt.Tooltip(n)
        for n in names
    ]


def whole(numbers: Iterable[int], ticks: int = 10) -> Any:
    """Return an axis with at most `ticks` ticks, on whole numbers between the smallest and the largest of `numbers`.

    The ticks are named one by one: asked for a number of them, Vega repeats some or falls between whole numbers on few points.
    """
    low, high = min(values := list(numbers)), max(values)
    step = next(s for power in count() for k in (1, 2, 5) if (high - low) // (s := k * 10**power) < ticks)
    return alt.Axis(format="d", values=list(range(-(-low // step) * step, high + 1, step)), grid=False)


def legend(**more: Any) -> Any:
    """Return a legend under the chart."""
    options: dict[str, Any] = {"orient": "bottom", "direction": "horizontal", "columns": 3} | more
    return alt.Legend(**options)


def band(
    rows: list[dict[str, Any]], domain: Sequence[float], form: str, *, small: bool = False, color: str = PALETTE[0]
) -> list[alt.Chart]:
    """Return the interval of rows (iteration, value, low, high) as an area, and their values as a line over it."""
    ticks = 5 if small else 10
    x = alt.X("iteration:Q", title=None if small else "iteration", axis=whole((r["iteration"] for r in rows), ticks))
    axis = alt.Axis(format=form, tickCount=2 if small else 5)
    y = alt.Y("low:Q", title=None, scale=alt.Scale(domain=list(domain), zero=False), axis=axis)
    shown = tooltip("iteration:Q", "value:Q", "low:Q", "high:Q", digits=".3f" if form == "%" else form)
    base = alt.Chart(values(rows)).encode(x=x, tooltip=shown)
    area = base.mark_area(opacity=0.25, color=color).encode(y=y, y2="high:Q")
    line = base.mark_line(color=color, strokeWidth=2, point={"size": 14, "color": color}).encode(y="value:Q")
    return [area, line]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A line across a chart at a value. The label stands at `side` of the chart, above the line or below it."""

    value: float
    label: str
    side: Literal["left", "middle", "right"] = "left"
    above: bool = True


def levels(marks: Sequence[Level], *, dash: Sequence[int], color: str) -> list[alt.Chart]:
    """Return a line across the chart per level, with its label."""
    out = []
    places: dict[str, Any] = {"left": 4, "middle": {"expr": "width / 2"}, "right": {"expr": "width - 4"}}
    align = {"left": "left", "middle": "center", "right": "right"}
    for mark in marks:
        base = alt.Chart(values([{"at": float(mark.value), "label": mark.label}])).encode(y="at:Q")
        out.append(base.mark_rule(strokeDash=list(dash), color=color, strokeWidth=1.4))
        style: dict[str, Any] = {"baseline": "bottom", "dy": -3} if mark.above else {"baseline": "top", "dy": 4}
        style |= {"x": places[mark.side], "align": align[mark.side]}
        out.append(base.mark_text(color=color, fontSize=11, **style).encode(text="label:N"))
    return out


def upright(value: float, label: str, *, dash: Sequence[int], color: str) -> list[alt.Chart]:
    """Return a vertical line at a value of the x axis, its label above the chart, to the left of it."""
    base = alt.Chart(values([{"at": float(value), "label": label}])).encode(x="at:Q")
    text = base.mark_text(color=color, fontSize=11, align="right", baseline="bottom", y=-3).encode(text="label:N")
    return [base.mark_rule(strokeDash=list(dash), color=color, strokeWidth=1.4), text]


def clock(data: Data) -> tuple[str, int]:
    """Return the title of the x axis over inner steps, and what to add to a step: iterations count from 1."""
    return ("iteration", 1) if data.inner_steps == 1 else ("inner step", 0)


def ends(numbers: list[float]) -> str:
    """Say where a series begins and ends."""
    return f"from {numbers[0]:.3g} to {numbers[-1]:.3g}" if numbers else "nothing"


def viridis(count: int) -> list[str]:
    """Return `count` colours from dark to light."""
    out = []
    for i in range(count):
        at = i * (len(VIRIDIS) - 1) / max(1, count - 1)
        low, part = VIRIDIS[int(at)], at - int(at)
        high = VIRIDIS[min(int(at) + 1, len(VIRIDIS) - 1)]
        mixed = (round(int(low[j : j + 2], 16) * (1 - part) + int(high[j : j + 2], 16) * part) for j in (1, 3, 5))
        out.append("#" + "".join(f"{v:02x}" for v in mixed))
    return out
