"""The page: template, charts, and the JavaScript that draws them, in one HTML text without any outside reference."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import altair
import jinja2
import vl_convert
from markupsafe import Markup

from instar.report.charts import Chart, draw
from instar.report.data import MASTERED, SPLIT, Cost, Data
from instar.timeline import Elapsed

SPLITS = {"val": "validation", "id": "test", "ood": "harder tests"}


def render(data: Data) -> str:
    """Return the page of `data` as HTML."""
    charts = draw(data)
    folder = jinja2.PackageLoader("instar.report", "templates")
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"short": _short, "seconds": duration, "percent": _percent}
    return environment.get_template("page.html.j2").render(
        data=data,
        tiles=tiles(data),
        charts=charts,
        arm_charts=[c for key, c in charts.items() if key.startswith("arm-")],
        learning=[charts[k] for k in ("reward", "length", "variance", "truncated") if k in charts],
        health=[charts[k] for k in ("ratio", "clip", "mismatch", "kl", "entropy", "grad", "bandit") if k in charts],
        opened=most_gained(data),
        lineage=lineage(data),
        overhead=overhead(data.costs),
        stages=stage_totals(data.costs),
        spent=spent(data.elapsed),
        most=max((e.overhead_share for e in data.elapsed), default=0.0),
        macro={g.iteration: data.macro(g.iteration) for g in data.gates},
        mastered=MASTERED,
        config=json.dumps(data.opened.get("recipe", {}), indent=2, sort_keys=True),
        specs=_script_json(list(charts.values())),
        script=Markup(_bundle()),
        style=Markup(files("instar.report").joinpath("templates/page.css").read_text()),
        drawing=Markup(files("instar.report").joinpath("templates/page.js").read_text()),
    )


def tiles(data: Data) -> list[dict[str, str]]:
    """Return the headline numbers: label, value, note."""
    out = []
    base, best = data.macro(0), data.macro(data.champion)
    if base and best:
        out.append(_tile("mean accuracy, base to champion", f"{_percent(base.value)} → {_percent(best.value)}",
                         f"validation; champion between {_percent(best.low)} and {_percent(best.high)}"))  # fmt: skip
        arms = sum(a.split == SPLIT and a.iteration == 0 and bool(a.arm) for a in data.curve)
        out.append(_tile("levels mastered", f"{data.mastered(0)} → {data.mastered(data.champion)} of {arms}",
                         f"{_percent(MASTERED)} or more right"))  # fmt: skip
    for before, after, comparison in data.tests:
        note = f"champion between {_percent(after.low)} and {_percent(after.high)}"
        if comparison and comparison.get("difference") is not None:
            note = (
                f"gain {comparison['difference']:+.1%}, between {comparison['low']:+.1%} and {comparison['high']:+.1%}"
            )
        out.append(
            _tile(
                f"{SPLITS.get(after.split, after.split)} ({after.split})",
                f"{_percent(before.value)} → {_percent(after.value)}",
                note,
            )
        )
    done, planned = data.iterations
    out.append(_tile("iterations", f"{done} of {planned}", f"{len(data.steps)} inner steps, champion: {data.champion}"))
    if data.rollouts:
        out.append(_tile("rollouts", f"{data.rollouts:,}", "sampled for training"))
    whole = spent(data.elapsed)
    if whole is not None:
        out.append(
            _tile("goodput", f"{1 - whole.overhead_share:.1%}", f"a stage worked; overhead {whole.overhead_share:.1%}")
        )
    cpu = sum(c.cpu_s for c in data.costs)
    out.append(
        _tile("CPU time", duration(cpu), f"{duration(sum(c.wall_s for c in data.costs))} of wall time in stages")
    )
    return out


def lineage(data: Data) -> list[dict[str, Any]]:
    """Return the chain of evaluated policies: what each was trained from, and which are or were champion."""
    out: list[dict[str, Any]] = []
    parent: int | None = None
    best: int | None = None
    for gate in data.gates:
        out.append({"gate": gate, "parent": parent, "champion": gate.iteration == data.champion})
        best = gate.iteration if gate.promoted else best
        parent = best if gate.action == "rollback" else gate.iteration
    return out


def most_gained(data: Data) -> str:
    """Return the arm whose accuracy rose most from the base to the last evaluation, empty without one."""
    last = data.iterations[0]
    value = {(a.arm, a.iteration): a.value for a in data.curve if a.arm}
    gains = {arm: value[arm, last] - value.get((arm, 0), 0.0) for arm, k in value if k == last}
    return max(sorted(gains), key=lambda arm: gains[arm], default="")


def overhead(costs: list[Cost]) -> float | None:
    """Return the share of wall time that no stage function used, or None before the first stage."""
    total = sum(c.wall_s for c in costs)
    return sum(c.wall_s for c in costs if c.stage == "overhead") / total if total else None


def spent(iterations: list[Elapsed]) -> Elapsed | None:
    """Return the wall time of all iterations together, or None before the first gate."""
    if not iterations:
        return None
    return Elapsed(
        iteration=iterations[-1].iteration,
        at=iterations[-1].at,
        elapsed_s=sum(e.elapsed_s for e in iterations),
        work_s=sum(e.work_s for e in iterations),
        idle_s=sum(e.idle_s for e in iterations),
    )


def stage_totals(costs: list[Cost]) -> list[tuple[str, float, float]]:
    """Return (stage, wall seconds, CPU seconds) in order of wall time."""
    names = sorted({c.stage for c in costs})
    totals = [
        (n, sum(c.wall_s for c in costs if c.stage == n), sum(c.cpu_s for c in costs if c.stage == n)) for n in names
    ]
    return sorted(totals, key=lambda t: -t[1])


def duration(seconds: float) -> str:
    """Return seconds as people write them."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 90 else f"{minutes / 60:.3g} h"


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:10]


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script (0.9 MB), in the version that Altair writes for."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    text = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))
    return text.replace("</script", "<\\/script")


def _script_json(charts: list[Chart]) -> Markup:
    """Return the specifications as JSON that cannot end the script element it stands in."""
    text = json.dumps({c.key: c.spec for c in charts}, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
