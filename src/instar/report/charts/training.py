"""Charts over inner steps and iterations: what the curriculum chose, training metrics by name, seconds per stage."""

from __future__ import annotations

from typing import Any

import altair as alt

from instar.report.charts.generated import GENERATED_LINES, Curves, Lines
from instar.report.charts.style import FEW, PALETTE, Chart, clock, ends, legend, specification, values, viridis, whole
from instar.report.data import Data

STAGES = ("dataset_prep", "curriculum", "rollout", "reward", "update", "evaluate", "overhead")
PART = "reward/part/"
BOTH: Lines = {
    "grad": ("Gradient norm", (("norm", ("update/grad_norm",)),)),
    "bandit": ("Entropy of the curriculum, nats", (("entropy", ("curriculum/entropy",)),)),
}
LINES: Lines = {
    "reward": (
        "Reward and accuracy while training",
        (
            ("reward", ("reward/reward_mean", "update/reward_mean")),
            ("correct", ("reward/accuracy", "update/correct_mean")),
            ("readable answer", ("reward/format_rate",)),
        ),
    ),
    "length": (
        "Answer length, tokens",
        (
            ("mean", ("reward/length_mean", "update/length_mean", "rollout/mean_length_tokens")),
            ("right answers", ("update/length_right",)),
            ("wrong answers", ("update/length_wrong",)),
        ),
    ),
    "truncated": (
        "Answers cut by the length limit",
        (("share", ("rollout/truncated_share", "update/truncated_share")),),
    ),
    "variance": (
        "Groups that teach nothing (all answers alike)",
        (
            ("all right", ("update/all_right_share",)),
            ("all wrong", ("update/all_wrong_share",)),
            ("any equal reward", ("update/zero_variance_share",)),
        ),
    ),
    "ratio": (
        "Probability ratio of the update",
        (
            ("1 %", ("update/ratio/q01",)),
            ("median", ("update/ratio/q50",)),
            ("99 %", ("update/ratio/q99",)),
        ),
    ),
    "clip": ("Tokens clipped", (("low side", ("update/clip_share_low",)), ("high side", ("update/clip_share_high",)))),
    "mismatch": (
        "Trainer against sampler, nats per token",
        (
            ("mean |difference|", ("update/mismatch/abs_mean",)),
            ("KL", ("update/mismatch/kl",)),
        ),
    ),
    "kl": ("KL to the reference, nats per token", (("k3", ("update/kl/k3",)), ("k1", ("update/kl/k1",)))),
    "entropy": ("Entropy of the policy, nats per token", (("entropy", ("update/entropy",)),)),
    **BOTH,
}
CONTINUOUS_LINES: Lines = {
    "loss": (
        "Loss, and its parts before their weights",
        (
            ("whole", ("update/loss",)),
            ("action", ("update/loss/action",)),
            ("next state", ("update/loss/state",)),
            ("next return", ("update/loss/return",)),
            ("action, as logged", ("update/loss/logged",)),
        ),
    ),
    "fall": (
        "Loss of the same windows over an update",
        (
            ("before", ("update/loss_before",)),
            ("after", ("update/loss_after",)),
        ),
    ),
    "beta": ("Weight of the past policy in the target", (("beta", ("reward/beta", "update/beta")),)),
    "shift": (
        "Distance from the logged action, mean of |difference|",
        (
            ("past policy", ("reward/shift_mean", "rollout/shift_mean")),
            ("target", ("update/target_shift",)),
        ),
    ),
    "label": ("Return-to-go of the drawn windows", (("mean", ("reward/return_mean",)),)),
    "cosine": ("Gradient with and without the past policy, cosine", (("cosine", ("update/cosine_pser",)),)),
    "rate": ("Learning rate, mean of the optimiser steps", (("rate", ("update/lr",)),)),
    **BOTH,
}
PER_ARM = {
    # key: (title, (metric names with {arm}, in order of preference))
    "arm_loss": ("Loss by arm, before the update", ("update/arm/{arm}/loss_before", "curriculum/{arm}/loss")),
    "arm_fall": ("Fall of the loss by arm, over the update", ("update/arm/{arm}/loss_change",)),
}
AROUND_VALUES = ("ratio", "label", "cosine")
"""Charts whose axis need not start at 0."""


def shares(data: Data) -> Chart | None:
    """Share of each arm at every inner step, stacked: bars for a few steps, an area for many.

    Of prompts the probability, the drawn share where a strategy has none; of windows what was drawn.
    """
    names, (title, first) = [a.name for a in data.arms], clock(data)
    order = ("share", "p") if data.continuous else ("p", "share")
    rows: list[dict[str, Any]] = []
    for step, metrics in data.steps.items():
        for rank, name in enumerate(names):
            value = next((metrics[n] for o in order if (n := f"curriculum/{name}/{o}") in metrics), None)
            if value is not None:
                rows.append({"step": step + first, "arm": name, "rank": rank, "value": max(0.0, value)})
    used = [n for n in names if any(r["arm"] == n for r in rows)]
    if not used or len({r["step"] for r in rows}) < 2:
        return None
    few = bool(data.continuous) and len(data.steps) <= FEW
    base, thing = alt.Chart(values(rows)), "windows" if data.continuous else "prompts"
    marks = base.mark_bar() if few else base.mark_area(line=False, interpolate="step-after")
    axis: Any = alt.Axis(labelAngle=0, labelOverlap=True) if few else whole(r["step"] for r in rows)
    chart = marks.encode(
        x=alt.X("step:O" if few else "step:Q", title=title, axis=axis),
        y=alt.Y("value:Q", stack="normalize", title=f"share of the {thing}", axis=alt.Axis(format="%")),
        color=arm_colors(used),
        order=alt.Order("rank:Q"),
        tooltip=["step:Q", "arm:N", alt.Tooltip("value:Q", format=".3f")],
    )
    order_says = "the best data light" if data.continuous else "hard arms light"
    says = f"Stacked shares of {len(used)} arms over {len(data.steps)} inner steps, {order_says}."
    return Chart(key="shares", title="What the curriculum chose", says=says, spec=specification(chart, 320))


def arm_colors(used: list[str]) -> Any:
    """Return the colours of arms in order, from dark to light."""
    scale = alt.Scale(domain=used, range=viridis(len(used)))
    return alt.Color("arm:N", sort=used, title=None, scale=scale, legend=legend(columns=4, symbolLimit=60))


def lines(data: Data, key: str) -> Chart | None:
    """Curves of training metrics over inner steps, from the table of the recipe's kind."""
    title, curves = (GENERATED_LINES | (CONTINUOUS_LINES if data.continuous else LINES))[key]
    return _lines(data, key, title, curves)


def parts(data: Data) -> Chart | None:
    """Curves of the named parts of the user's reward, where there is more than one."""
    names = sorted({name for metrics in data.steps.values() for name in metrics if name.startswith(PART)})
    if len(names) < 2:
        return None
    curves = tuple((name.removeprefix(PART), (name,)) for name in names[: len(PALETTE)])
    return _lines(data, "parts", "Parts of the reward, before their weights", curves)


def _lines(data: Data, key: str, title: str, curves: Curves) -> Chart | None:
    rows: list[dict[str, Any]] = []
    first = clock(data)[1]
    for label, names in curves:
        name = next((n for n in names if any(n in m for m in data.steps.values())), None)
        if name:
            rows += [{"step": s + first, "curve": label, "value": m[name]} for s, m in data.steps.items() if name in m]
    present = {r["curve"] for r in rows}
    used = [label for label, _ in curves if label in present]
    if not used or len({r["step"] for r in rows}) < 2:
        return None
    color = alt.Color(
        "curve:N",
        sort=used,
        title=None,
        scale=alt.Scale(domain=used, range=list(PALETTE[: len(used)])),
        legend=legend() if len(used) > 1 else None,
    )
    dash = alt.StrokeDash("curve:N", sort=used, title=None, legend=None)
    chart = _curves(data, rows, "curve", key).encode(color=color, strokeDash=dash)
    ranges = "; ".join(f"{u} {ends([r['value'] for r in rows if r['curve'] == u])}" for u in used)
    return Chart(key=key, title=title, says=f"{title}: {ranges}.", spec=specification(chart, 180))


def arm_lines(data: Data, key: str) -> Chart | None:
    """Curves of one metric over inner steps, one per arm."""
    title, patterns = PER_ARM[key]
    rows: list[dict[str, Any]] = []
    first = clock(data)[1]
    for arm in data.arms:
        names = [pattern.format(arm=arm.name) for pattern in patterns]
        name = next((n for n in names if any(n in m for m in data.steps.values())), None)
        rows += [{"step": s + first, "arm": arm.name, "value": m[name]} for s, m in data.steps.items() if name in m]
    used = [a.name for a in data.arms if any(r["arm"] == a.name for r in rows)]
    if not used or len({r["step"] for r in rows}) < 2:
        return None
    chart = _curves(data, rows, "arm", key).encode(color=arm_colors(used))
    ranges = "; ".join(f"{u} {ends([r['value'] for r in rows if r['arm'] == u])}" for u in used)
    return Chart(key=key, title=title, says=f"{title}: {ranges}.", spec=specification(chart, 180))


def _curves(data: Data, rows: list[dict[str, Any]], by: str, key: str) -> alt.Chart:
    made: alt.Chart = (
        alt.Chart(values(rows))
        .mark_line(strokeWidth=1.8, point={"size": 16} if len(data.steps) <= FEW // 2 else False)
        .encode(
            x=alt.X("step:Q", title=clock(data)[0], axis=whole(r["step"] for r in rows)),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(format="~f"), scale=alt.Scale(zero=key not in AROUND_VALUES)),
            tooltip=["step:Q", f"{by}:N", alt.Tooltip("value:Q", format=".4g")],
        )
    )
    return made


def cost(data: Data) -> Chart | None:
    """Wall seconds per iteration, stacked by stage."""
    rows: list[dict[str, Any]]
    rows = [{"iteration": c.iteration, "stage": c.stage, "wall": c.wall_s, "cpu": c.cpu_s} for c in data.costs]
    if not rows:
        return None
    used = [s for s in STAGES if any(r["stage"] == s for r in rows)]
    colours: dict[str, str] = dict(zip(STAGES, PALETTE, strict=True))
    chart = (
        alt.Chart(values(rows))
        .mark_bar()
        .encode(
            x=alt.X("iteration:O", title="iteration", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("sum(wall):Q", title="seconds"),
            color=alt.Color(
                "stage:N", title=None, legend=legend(), scale=alt.Scale(domain=used, range=[colours[s] for s in used])
            ),
            tooltip=["iteration:O", "stage:N", *(alt.Tooltip(f"sum({n}):Q", format=".2f") for n in ("wall", "cpu"))],
        )
    )
    total = sum(r["wall"] for r in rows)
    says = f"Stacked bars of wall seconds by stage, {total:.0f} seconds in all."
    return Chart(key="cost", title="Seconds per stage", says=says, spec=specification(chart, 260))
