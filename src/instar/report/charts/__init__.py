"""Vega-Lite charts of the report, from `Data` to specifications."""

from __future__ import annotations

from collections.abc import Callable

from instar.report.charts.continuous import episodes, obtained, returns, tiers
from instar.report.charts.generated import GENERATED_LINES
from instar.report.charts.judge import judged, reflected
from instar.report.charts.scores import climb, macro, per_arm
from instar.report.charts.style import Chart
from instar.report.charts.training import CONTINUOUS_LINES, LINES, PER_ARM, arm_lines, cost, lines, parts, shares
from instar.report.data import Data

__all__ = ["CONTINUOUS_LINES", "GENERATED_LINES", "LINES", "Chart", "draw"]


def draw(data: Data) -> dict[str, Chart]:
    """Return the charts that the data supports, by key; small multiples are `arm-0`, `arm-1`, ... and `return-0`, ..."""
    makers: tuple[Callable[[Data], Chart | None], ...] = (climb, macro, shares, cost, obtained, tiers, episodes)
    makers += (judged, reflected, parts)
    charts = [maker(data) for maker in makers]
    charts += [lines(data, key) for key in (CONTINUOUS_LINES if data.continuous else LINES)]
    charts += [lines(data, key) for key in GENERATED_LINES]
    charts += [arm_lines(data, key) for key in PER_ARM] if data.continuous else []
    charts += [*per_arm(data), *returns(data)]
    return {chart.key: chart for chart in charts if chart is not None}
