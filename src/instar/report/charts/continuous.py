"""Charts of continuous-control recipes: asked and reached returns, the logged data, and single episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    upright,
    values,
)
from instar.report.charts.training import arm_colors
from instar.report.continuous_data import Continuous, Target, thin
from instar.report.data import Data

ASKED, REFERENCE = PALETTE[5], "#888888"
BINS = 36
MOST_EPISODES = 40


def returns(data: Data) -> list[Chart | None]:
    """Return a chart per target, `return-0` and on: mean return with its interval, the asked one and both references.

    All share one axis, so that they can be compared at a glance.
    """
    continuous = data.continuous
    if continuous is None or not continuous.targets:
        return []
    low, high = _range(continuous)
    return [
        _return(continuous, n, target, (low, high))
        for n, target in enumerate(continuous.targets)
        if continuous.of(target)
    ]


def _return(continuous: Continuous, number: int, target: Target, domain: tuple[float, float]) -> Chart:
    points = [row(s) for s in continuous.of(target)]
    rows = [p | {name: target.reached(p[name]) for name in ("value", "low", "high")} for p in points]
    higher = target.asked >= target.expert
    anchors = [
        Level(value=target.random, label="random", side="right", above=False),
        Level(value=target.expert, label="expert", above=not higher),
    ]
    asked = [Level(value=target.asked, label="asked for", side="middle", above=higher)]
    layers = [
        *levels(anchors, dash=(2, 3), color=REFERENCE),
        *levels(asked, dash=(7, 4), color=ASKED),
        *band(rows, domain, ".0f"),
    ]
    name = f"Asked for {signed(target.asked)}" + (" (probe)" if target.probe else "")
    says = f"{name}: mean return {ends([r['value'] for r in rows])}; random {target.random:.4g}, expert {target.expert:.4g}."
    return Chart(key=f"return-{number}", title=name, says=says, spec=specification(alt.layer(*layers), 220))


def obtained(data: Data) -> Chart | None:
    """What the first and the last policy reach at each return they are asked for. On the diagonal a policy does as told."""
    continuous = data.continuous
    if continuous is None or len([t for t in continuous.targets if continuous.of(t)]) < 2:
        return None
    rows: list[dict[str, Any]] = []
    for target in continuous.targets:
        scores = continuous.of(target)
        for policy, score in (("base", scores[0]), ("last", scores[-1])) if scores else ():
            reached = {n: target.reached(getattr(score, n)) for n in ("value", "low", "high")}
            rows.append({"asked": target.asked, "policy": policy, **reached})
    used = [name for name in ("base", "last") if any(r["policy"] == name for r in rows)]
    x = [r["asked"] for r in rows]
    room = 0.08 * (max(x) - min(x)) or 1.0
    span, (low, high) = (min(x) - room, max(x) + room), _range(continuous)
    diagonal = [{"asked": v, "value": v} for v in (max(span[0], low), min(span[1], high))]
    line = alt.Chart(values(diagonal)).mark_line(strokeDash=[7, 4], color=ASKED, strokeWidth=1.4)
    base = alt.Chart(values(rows)).encode(
        x=alt.X("asked:Q", title="return asked for", scale=alt.Scale(domain=list(span), zero=False)),
        color=alt.Color(
            "policy:N",
            title=None,
            scale=alt.Scale(domain=used, range=[REFERENCE, PALETTE[0]][-len(used) :]),
            legend=legend(),
        ),
        tooltip=["policy:N", *(alt.Tooltip(f"{n}:Q", format=".0f") for n in ("asked", "value", "low", "high"))],
    )
    scale = alt.Scale(domain=[low, high], zero=False)
    y = alt.Y("value:Q", title="mean return reached", scale=scale, axis=alt.Axis(format=".0f"))
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", scale=scale, title=None), y2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(y=y)
    last = {r["asked"]: r["value"] for r in rows if r["policy"] == "last"}
    says = "Return asked for and reached by the last policy: "
    says += "; ".join(f"{signed(a)} and {signed(v)}" for a, v in last.items()) + "."
    chart = alt.layer(line.encode(x="asked:Q", y="value:Q"), bars, dots)
    return Chart(key="obtained", title="Asked for and reached", says=says, spec=specification(chart, 300))


def tiers(data: Data) -> Chart | None:
    """Histogram of the returns of all logged episodes, by arm."""
    continuous = data.continuous
    if continuous is None or not continuous.tiers:
        return None
    everything = [value for tier in continuous.tiers for value in tier.returns]
    low, step = min(everything), bin_width(min(everything), max(everything))
    start = math.floor(low / step) * step
    counts: dict[tuple[str, int], int] = {}
    for tier in continuous.tiers:
        for value in tier.returns:
            key = tier.arm, int((value - start) // step)
            counts[key] = counts.get(key, 0) + 1
    names = [tier.arm for tier in continuous.tiers]
    rows = [
        {
            "arm": arm,
            "rank": names.index(arm),
            "from": start + n * step,
            "to": start + (n + 1) * step,
            "episodes": count,
        }
        for (arm, n), count in sorted(counts.items())
    ]
    bars = (
        alt.Chart(values(rows))
        .mark_bar()
        .encode(
            x=alt.X("from:Q", bin="binned", title="return of a logged episode", scale=alt.Scale(zero=False)),
            x2="to:Q",
            y=alt.Y("episodes:Q", stack=True, title="episodes"),
            color=arm_colors(names),
            order=alt.Order("rank:Q"),
            tooltip=["arm:N", "from:Q", "to:Q", "episodes:Q"],
        )
    )
    wanted = [t.asked for t in continuous.targets if not t.probe]
    marks = [m for v in wanted for m in upright(v, f"asked for {signed(v)}", dash=(7, 4), color=ASKED)]
    best = max(everything)
    says = f"Histogram of the returns of {len(everything)} episodes in {len(names)} arms; the best has {best:.4g}."
    return Chart(key="tiers", title="The logged data", says=says, spec=specification(alt.layer(bars, *marks), 260))


def episodes(data: Data) -> Chart | None:
    """The return from every start state by the first and by the last policy, joined by a line, in order of the last."""
    continuous = data.continuous
    if continuous is None or not continuous.episodes:
        return None
    shown = thin(continuous.episodes, MOST_EPISODES)
    names = [str(e.seed) for e in reversed(shown)]
    rows = [{"start": str(e.seed), "before": e.before, "after": e.after} for e in shown]
    ends_of = (("base", "before"), ("last", "after"))
    points = [{"start": r["start"], "policy": p, "value": r[name]} for r in rows for p, name in ends_of]
    y = alt.Y("start:N", sort=names, title=None, axis=alt.Axis(labels=False, ticks=False))
    line = alt.Chart(values(rows)).mark_rule(color=REFERENCE, opacity=0.6)
    line = line.encode(y=y, x=alt.X("before:Q", scale=alt.Scale(zero=False)), x2="after:Q")
    dots = (
        alt.Chart(values(points))
        .mark_point(filled=True, size=46, opacity=1)
        .encode(
            y=y,
            x=alt.X("value:Q", title="return of the episode", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "policy:N",
                title=None,
                legend=legend(),
                scale=alt.Scale(domain=["base", "last"], range=[REFERENCE, PALETTE[0]]),
            ),
            tooltip=[
                alt.Tooltip("start:N", title="seed of the start"),
                "policy:N",
                alt.Tooltip("value:Q", format=".1f"),
            ],
        )
    )
    marks = upright(shown[0].asked, "asked for", dash=(7, 4), color=ASKED)
    better = sum(e.after > e.before for e in continuous.episodes)
    says = (
        f"Returns from {len(continuous.episodes)} start states by the base and the last policy; {better} of them rose."
    )
    chart = alt.layer(line, *marks, dots)
    height = max(140, 11 * len(shown))
    return Chart(
        key="episodes", title="The same start states, before and after", says=says, spec=specification(chart, height)
    )


def bin_width(low: float, high: float) -> float:
    """Return a round width, 1, 2 or 5 times a power of ten, that makes at most `BINS` bins of a range."""
    rough = (high - low) / BINS or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= rough)


def signed(value: float) -> str:
    """Return a number with a true minus sign."""
    return f"{value:,.4g}".replace("-", "\u2212")


def _range(continuous: Continuous) -> tuple[float, float]:
    """Return the axis that holds every return on the page, with room for labels."""
    held: list[float] = []
    for target in continuous.targets:
        scores = continuous.of(target)
        held += [target.random, target.expert, target.asked, *(target.reached(v) for v in _bounds(scores))]
    low, high = min(held), max(held)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _bounds(scores: Iterable[Any]) -> list[float]:
    return [bound for s in scores for bound in (s.low, s.high)]
