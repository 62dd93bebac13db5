"""Vega-Lite charts of the report, from `Data` to specifications. Colours are safe for colour-blind readers.

Sequential: viridis (even steps of lightness). Categories: Okabe and Ito. Text and grid take the page's colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt

from instar.report.data import MASTERED, Accuracy, Data

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
STAGES = ("dataset_prep", "curriculum", "rollout", "reward", "update", "evaluate", "overhead")
GATE_MARKS = {
    "promoted": ("#009E73", "circle"), "continue": ("#999999", "circle"), "hold": ("#E69F00", "square"),
    "rollback": ("#D55E00", "triangle-down"), "stop": ("#0072B2", "diamond"),
}  # fmt: skip
MOST_ARMS = 30
"""Arms drawn one by one; the rest stay in the heat strip."""
LINES: dict[str, tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]] = {
    # key: (title, ((legend, metric names in order of preference), ...))
    "reward": ("Reward and accuracy while training", (
        ("reward", ("reward/reward_mean", "update/reward_mean")),
        ("correct", ("reward/accuracy", "update/correct_mean")),
        ("readable answer", ("reward/format_rate",)),
    )),
    "length": ("Answer length, tokens", (
        ("mean", ("reward/length_mean", "update/length_mean", "rollout/mean_length_tokens")),
        ("right answers", ("update/length_right",)),
        ("wrong answers", ("update/length_wrong",)),
    )),
    "truncated": ("Answers cut by the length limit", (
        ("share", ("rollout/truncated_share", "update/truncated_share")),
    )),
    "variance": ("Groups that teach nothing (all answers alike)", (
        ("all right", ("update/all_right_share",)), ("all wrong", ("update/all_wrong_share",)),
        ("any equal reward", ("update/zero_variance_share",)),
    )),
    "ratio": ("Probability ratio of the update", (
        ("1 %", ("update/ratio/q01",)), ("median", ("update/ratio/q50",)), ("99 %", ("update/ratio/q99",)),
    )),
    "clip": ("Tokens clipped", (("low side", ("update/clip_share_low",)), ("high side", ("update/clip_share_high",)))),
    "mismatch": ("Trainer against sampler, nats per token", (
        ("mean |difference|", ("update/mismatch/abs_mean",)), ("KL", ("update/mismatch/kl",)),
    )),
    "kl": ("KL to the reference, nats per token", (("k3", ("update/kl/k3",)), ("k1", ("update/kl/k1",)))),
    "entropy": ("Entropy of the policy, nats per token", (("entropy", ("update/entropy",)),)),
    "grad": ("Gradient norm", (("norm", ("update/grad_norm",)),)),
    "bandit": ("Entropy of the curriculum, nats", (("entropy", ("curriculum/entropy",)),)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A specification with its title and, for those who cannot see it, what it says."""

    key: str
    title: str
    says: str
    spec: dict[str, Any]


def draw(data: Data) -> dict[str, Chart]:
    """Return the charts that the data supports, by key; small multiples are `arm-0`, `arm-1`, ..."""
    makers: tuple[Callable[[Data], Chart | None], ...] = (climb, macro, shares, cost)
    found = [maker(data) for maker in makers] + [lines(data, key) for key in LINES] + _per_arm(data)
    return {chart.key: chart for chart in found if chart is not None}


def climb(data: Data) -> Chart | None:
    """Accuracy of every arm after every iteration: one row per arm, hardest on top."""
    rows = [_row(a) for a in data.curve if a.arm]
    if not rows:
        return None
    last = max(a.iteration for a in data.curve)
    order = [a.name for a in reversed(data.arms) if any(r["arm"] == a.name for r in rows)]
    height = max(120, min(30, max(13, 420 // len(order))) * len(order))
    base = alt.Chart(_values(rows)).encode(
        x=alt.X("iteration:O", title="iteration", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("arm:N", sort=order, title=None),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "value:Q", title="accuracy", scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=_bar_legend()
        ),
        tooltip=_tooltip("arm:N", "iteration:Q", "value:Q", "low:Q", "high:Q"),
    )
    done = alt.Chart(_values([r for r in rows if r["value"] >= MASTERED])).mark_point(
        shape="circle", filled=True, size=14, color="#222222", opacity=0.8
    ).encode(x="iteration:O", y=alt.Y("arm:N", sort=order))  # fmt: skip
    says = f"Heat strip of {len(order)} arms over {last} iterations. "
    says += f"Mastered: {data.mastered(0)} at the start, {data.mastered(last)} at the end."
    return Chart(key="climb", title="The climb", says=says, spec=_spec(alt.layer(cells, done), height))


def macro(data: Data) -> Chart | None:
    """Macro accuracy with its interval, gate decisions on top."""
    rows = [_row(a) for a in data.curve if not a.arm]
    if not rows:
        return None
    at = {r["iteration"]: r["value"] for r in rows}
    marks = [
        {
            "iteration": g.iteration,
            "value": at[g.iteration],
            "decision": _decision(g.action, g.promoted),
            "reason": g.reason,
        }
        for g in data.gates
        if g.iteration in at
    ]
    kinds = [kind for kind in GATE_MARKS if any(m["decision"] == kind for m in marks)]
    gates = (
        alt.Chart(_values(marks))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x="iteration:Q", y="value:Q",
            color=alt.Color("decision:N", title=None, legend=_legend(),
                            scale=alt.Scale(domain=kinds, range=[GATE_MARKS[k][0] for k in kinds])),
            shape=alt.Shape("decision:N", title=None, legend=_legend(),
                            scale=alt.Scale(domain=kinds, range=[GATE_MARKS[k][1] for k in kinds])),
            tooltip=["iteration:Q", "decision:N", "reason:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )  # fmt: skip
    first, final = rows[0]["value"], rows[-1]["value"]
    says = f"Macro accuracy on the validation tasks from {first:.3f} to {final:.3f}, with interval and gate decisions."
    return Chart(
        key="macro", title="Mean accuracy over all arms", says=says, spec=_spec(alt.layer(*_band(rows), gates), 300)
    )


def shares(data: Data) -> Chart | None:
    """Probability of each arm at every inner step, stacked; the drawn share where a strategy has no probability."""
    names = [a.name for a in data.arms]
    rows = []
    for step, metrics in data.steps.items():
        for rank, name in enumerate(names):
            value = metrics.get(f"curriculum/{name}/p", metrics.get(f"curriculum/{name}/share"))
            if value is not None:
                rows.append({"step": step, "arm": name, "rank": rank, "value": max(0.0, value)})
    used = [n for n in names if any(r["arm"] == n for r in rows)]
    if not used or len({r["step"] for r in rows}) < 2:
        return None
    chart = (
        alt.Chart(_values(rows))
        .mark_area(line=False, interpolate="step-after")
        .encode(
            x=alt.X("step:Q", title="inner step", axis=_whole(len(data.steps))),
            y=alt.Y("value:Q", stack="normalize", title="share of the prompts", axis=alt.Axis(format="%")),
            color=alt.Color("arm:N", sort=used, title=None, scale=alt.Scale(domain=used, range=_viridis(len(used))),
                            legend=_legend(columns=4, symbolLimit=60)),
            order=alt.Order("rank:Q"),
            tooltip=["step:Q", "arm:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )  # fmt: skip
    says = f"Stacked area of the shares of {len(used)} arms over {len(data.steps)} inner steps, hard arms light."
    return Chart(key="shares", title="What the curriculum chose", says=says, spec=_spec(chart, 320))


def cost(data: Data) -> Chart | None:
    """Wall seconds per iteration, stacked by stage."""
    rows: list[dict[str, Any]]
    rows = [{"iteration": c.iteration, "stage": c.stage, "wall": c.wall_s, "cpu": c.cpu_s} for c in data.costs]
    if not rows:
        return None
    used = [s for s in STAGES if any(r["stage"] == s for r in rows)]
    colours: dict[str, str] = dict(zip(STAGES, PALETTE, strict=True))
    chart = (
        alt.Chart(_values(rows))
        .mark_bar()
        .encode(
            x=alt.X("iteration:O", title="iteration", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("sum(wall):Q", title="seconds"),
            color=alt.Color("stage:N", title=None, legend=_legend(),
                            scale=alt.Scale(domain=used, range=[colours[s] for s in used])),
            tooltip=["iteration:O", "stage:N", *(alt.Tooltip(f"sum({n}):Q", format=".2f") for n in ("wall", "cpu"))],
        )
    )  # fmt: skip
    total = sum(r["wall"] for r in rows)
    says = f"Stacked bars of wall seconds by stage, {total:.0f} seconds in all."
    return Chart(key="cost", title="Seconds per stage", says=says, spec=_spec(chart, 260))


def lines(data: Data, key: str) -> Chart | None:
    """Curves of training metrics over inner steps, from the table `LINES`."""
    title, curves = LINES[key]
    rows: list[dict[str, Any]] = []
    for legend, names in curves:
        name = next((n for n in names if any(n in m for m in data.steps.values())), None)
        if name:
            rows += [{"step": s, "curve": legend, "value": m[name]} for s, m in data.steps.items() if name in m]
    present = {r["curve"] for r in rows}
    used = [legend for legend, _ in curves if legend in present]
    if not used or len({r["step"] for r in rows}) < 2:
        return None
    chart = (
        alt.Chart(_values(rows))
        .mark_line(strokeWidth=1.8)
        .encode(
            x=alt.X("step:Q", title="inner step", axis=_whole(len(data.steps))),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(format="~g"), scale=alt.Scale(zero=key != "ratio")),
            color=alt.Color("curve:N", sort=used, title=None,
                            scale=alt.Scale(domain=used, range=list(PALETTE[: len(used)])),
                            legend=_legend() if len(used) > 1 else None),
            strokeDash=alt.StrokeDash("curve:N", sort=used, title=None, legend=None),
            tooltip=["step:Q", "curve:N", alt.Tooltip("value:Q", format=".4g")],
        )
    )  # fmt: skip
    ends = "; ".join(f"{u} {_ends([r['value'] for r in rows if r['curve'] == u])}" for u in used)
    return Chart(key=key, title=title, says=f"{title}: {ends}.", spec=_spec(chart, 180))


def _per_arm(data: Data) -> list[Chart | None]:
    arms = [a for a in data.arms if any(p.arm == a.name for p in data.curve)][:MOST_ARMS]
    return [_arm(data, i, arm.name) for i, arm in enumerate(arms)]


def _arm(data: Data, number: int, name: str) -> Chart:
    rows = [_row(a) for a in data.curve if a.arm == name]
    says = f"Accuracy of {name}: {_ends([r['value'] for r in rows])}."
    return Chart(key=f"arm-{number}", title=name, says=says, spec=_spec(alt.layer(*_band(rows, small=True)), 96))


def _band(rows: list[dict[str, Any]], *, small: bool = False) -> list[alt.Chart]:
    ticks = 3 if small else 6
    x = alt.X("iteration:Q", title=None if small else "iteration", axis=_whole(len(rows), ticks))
    y = alt.Y(
        "low:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=2 if small else 5)
    )
    base = alt.Chart(_values(rows)).encode(x=x, tooltip=_tooltip("iteration:Q", "value:Q", "low:Q", "high:Q"))
    band = base.mark_area(opacity=0.25, color=PALETTE[0]).encode(y=y, y2="high:Q")
    line = base.mark_line(color=PALETTE[0], strokeWidth=2, point={"size": 14, "color": PALETTE[0]}).encode(y="value:Q")
    return [band, line]


def _spec(chart: Any, height: int) -> dict[str, Any]:
    whole = chart.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )
    made: dict[str, Any] = whole.to_dict()
    made["background"] = "transparent"
    made.pop("config", None)
    return made


def _values(rows: list[dict[str, Any]]) -> Any:
    short = [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    return alt.InlineData(values=short)


def _row(point: Accuracy) -> dict[str, Any]:
    return {"iteration": point.iteration, "arm": point.arm, "value": point.value, "low": point.low, "high": point.high}


def _tooltip(*names: str) -> list[Any]:
    return [
        alt.Tooltip(n, format=".3f") if n.endswith(":Q") and not n.startswith("iteration") else alt.Tooltip(n)
        for n in names
    ]


def _whole(count: int, ticks: int = 8) -> Any:
    return alt.Axis(format="d", tickMinStep=1, tickCount=min(count, ticks), grid=False)


def _legend(**more: Any) -> Any:
    options: dict[str, Any] = {"orient": "bottom", "direction": "horizontal", "columns": 3} | more
    return alt.Legend(**options)


def _bar_legend() -> Any:
    return alt.Legend(orient="bottom", direction="horizontal", gradientLength=160, format="%")


def _decision(action: str, promoted: bool) -> str:
    return "promoted" if promoted else action


def _ends(values: list[float]) -> str:
    return f"from {values[0]:.3g} to {values[-1]:.3g}" if values else "nothing"


VIRIDIS = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
"""Ten even steps of the viridis map (van der Walt and Smith 2015)."""


def _viridis(count: int) -> list[str]:
    """Return `count` colours from dark to light."""
    out = []
    for i in range(count):
        at = i * (len(VIRIDIS) - 1) / max(1, count - 1)
        low, part = VIRIDIS[int(at)], at - int(at)
        high = VIRIDIS[min(int(at) + 1, len(VIRIDIS) - 1)]
        mixed = (round(int(low[j : j + 2], 16) * (1 - part) + int(high[j : j + 2], 16) * part) for j in (1, 3, 5))
        out.append("#" + "".join(f"{v:02x}" for v in mixed))
    return out
