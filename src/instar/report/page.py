"""The page: template, charts, and the JavaScript that draws them, in one HTML text that loads nothing else."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import altair
import jinja2
import vl_convert
from markupsafe import Markup

from instar.report.charts import GENERATED_LINES, Chart, draw
from instar.report.charts.continuous import signed
from instar.report.costs import overhead, stage_totals
from instar.report.data import MASTERED, Data
from instar.report.tiles import duration, percent, share, spent, tiles

LEARNING = (
    "reward",
    "length",
    "variance",
    "truncated",
    "loss",
    "arm_loss",
    "fall",
    "arm_fall",
    "beta",
    "shift",
    "label",
)
HEALTH = ("ratio", "clip", "mismatch", "kl", "entropy", "grad", "cosine", "rate", "bandit")


def render(data: Data) -> str:
    """Return the page of `data` as HTML."""
    charts = draw(data)
    folder = jinja2.PackageLoader("instar.report", "templates")
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"short": _short, "seconds": duration, "percent": percent, "share": share, "signed": signed}
    return environment.get_template("page.html.j2").render(
        data=data,
        tiles=tiles(data),
        charts=charts,
        arm_charts=[c for key, c in charts.items() if key.startswith("arm-")],
        return_charts=[c for key, c in charts.items() if key.startswith("return-")],
        generated_charts=[charts[k] for k in GENERATED_LINES if k in charts],
        learning=[charts[k] for k in LEARNING if k in charts],
        health=[charts[k] for k in HEALTH if k in charts],
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


def lineage(data: Data) -> list[dict[str, Any]]:
    """Return the chain of evaluated policies: from which policy each one was trained, and which one is champion."""
    out: list[dict[str, Any]] = []
    parent: int | None = None
    best: int | None = None
    for gate in data.gates:
        out.append({"gate": gate, "parent": parent, "champion": gate.iteration == data.champion})
        best = gate.iteration if gate.promoted else best
        parent = best if gate.action == "rollback" else gate.iteration
    return out


def most_gained(data: Data) -> str:
    """Return the arm whose accuracy rose most from the base to the last evaluation, or an empty text."""
    final = data.iterations[0]
    value = {(a.arm, a.iteration): a.value for a in data.curve if a.arm}
    gains = {arm: value[arm, final] - value.get((arm, 0), 0.0) for arm, k in value if k == final}
    return max(sorted(gains), key=lambda arm: gains[arm], default="")


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:10]


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script (0.9 MB). Its version fits the charts that Altair writes."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    text = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))
    return text.replace("</script", "<\\/script")


def _script_json(charts: list[Chart]) -> Markup:
    """Return the specifications of the charts as JSON. Escapes prevent that a text in it ends the script element."""
    text = json.dumps({c.key: c.spec for c in charts}, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
