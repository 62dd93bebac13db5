"""The page about the policy as a judge, against summaries with numbers chosen by hand. About 10 s."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from instar import schema
from instar.report import data as report_data
from instar.report import write_report
from instar.report.data import Data, gather
from instar.rows import TaskRow
from instar.workspace import Workspace
from support import written
from support.browser import chromium
from support.written import ITERATIONS, write_evolution

for _name in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install 'instar[report]'")

from instar.report import charts, page, tiles  # noqa: E402

ANCHORS = (0.5, 0.55, 0.75, 0.875, 0.6)
"""Balanced accuracy after iteration 0 to 4; after the last it fell far below the champion's of iteration 3."""
OPEN = (False, False, True, True, False)
PLAIN, AFTER = (0.2, 0.3, 0.4, 0.6, 0.8), (0.2, 0.3, 0.5, 0.7, 0.8)
ALARM = "the judge fell by <b>.275</b>"


def judged(found: dict[str, Any], split: str, k: int) -> dict[str, Any]:
    """Return a summary with what the evaluation of iteration `k` says of the judge."""
    value = ANCHORS[k]
    number = {"balanced_accuracy": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}
    kinds = {"judge-point": {**number, "balanced_accuracy": value - 0.05}, "judge-pair": {**number}}
    gain = {"difference": AFTER[k] - PLAIN[k], "low": AFTER[k] - PLAIN[k] - 0.02, "high": AFTER[k] - PLAIN[k] + 0.02}
    reflected = {
        "score": AFTER[k],
        "low": AFTER[k] - 0.05,
        "high": AFTER[k] + 0.05,
        "plain": PLAIN[k],
        "gain": gain,
        "calls_mean": 2.5 if OPEN[k] else 1.0,
        "wrong_to_right": 4,
        "right_to_wrong": 1,
        "gate": {"open": OPEN[k], "reason": f"gate {k}"},
    }
    own = {"precision": 0.8, "recall": None, "f1": 0.875, "balanced_accuracy": 0.7, "parse_rate": 1.0}
    found["splits"][split] |= {"reflected": reflected, "own": own}
    return found | {"judge": {**number, "kinds": kinds}, "alarms": [{"reason": ALARM}] if k == 4 else []}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    turns = {"val": iter(range(ITERATIONS + 1)), "id": iter((0, 3))}
    plain = written.summarise

    def summarise(rows: Any, tasks: Any, policy: str, champion: Any, config: Any) -> dict[str, Any]:
        (split,) = config.splits
        return judged(plain(rows, tasks, policy, champion, config), split, next(turns[split]))

    metrics = written.metrics_of

    def metrics_of(step: int) -> dict[str, dict[str, float]]:
        found = metrics(step)
        found["reward"] |= {
            "recycle_p_right": 0.5,
            "recycle_cache_size": 10.0 + step,
            "recycle_age_mean": 1.0,
            "recycle_age_max": 2.0,
            "judge-point/accuracy": 0.5 + 0.05 * step,
        }
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(written, "summarise", summarise)
        patch.setattr(written, "metrics_of", metrics_of)
        return write_evolution(tmp_path_factory.mktemp("judge") / "evolution", "fused")


@pytest.fixture(scope="module")
def data(workspace: Workspace) -> Data:
    return gather(workspace)


def test_what_is_gathered(data: Data) -> None:
    assert data.judge is not None
    assert [s.value for s in data.judge.anchors if not s.arm] == list(ANCHORS)
    assert [(s.iteration, s.arm) for s in data.judge.anchors[:3]] == [(0, ""), (0, "judge-pair"), (0, "judge-point")]
    assert [(r.plain, r.after.value, r.open) for r in data.judge.watched()] == list(
        zip(PLAIN, AFTER, OPEN, strict=True)
    )
    assert [(r.who, r.split, r.plain) for r in data.judge.tested()] == [("base", "id", 0.2), ("champion", "id", 0.6)]
    assert data.judge.alarms == [(4, ALARM)]
    assert data.judge.own[-1].recall is None


def test_charts_of_judge_reflection_and_made_tasks(data: Data) -> None:
    found = charts.draw(data)
    assert {"judge", "reflected", *charts.GENERATED_LINES} <= found.keys()
    assert "from 0.5 to 0.6" in found["judge"].says and "1 alarms" in found["judge"].says
    assert "closed after 3 of 5" in found["reflected"].says
    spec = json.dumps(found["judge"].spec)
    assert "single answers" in spec and "pairs, both orders" in spec
    assert "waiting from 10 to 17" in found["generated_cache"].says
    assert "pairs" not in found["generated_solved"].says  # no pair was drawn


def test_tiles_compare_base_and_champion(data: Data) -> None:
    found = {t["label"]: t for t in tiles.tiles(data)}
    assert found["judges given answers"]["value"] == "50% → 88%"
    shown = found["before and after reflection"]
    assert shown["value"] == "60% → 70%" and "2.5 calls a question; gate 3" in shown["note"]


def test_page_shows_alarm_table_and_own_verdicts_escaped(data: Data) -> None:
    outside = re.sub(r"<script.*?</script>", "", page.render(data), flags=re.DOTALL)
    text = re.sub(r"\s+", " ", outside)
    assert "Alarm after iteration 4." in text and "&lt;b&gt;.275&lt;/b&gt;" in text and "<b>.275" not in text
    assert "precision 80.0%, recall -, F1 87.5%, balanced accuracy 70.0%; 100.0% of the verdicts" in text
    assert '<td>champion</td> <td class="number">60.0%</td><td class="number">70.0%</td>' in text
    assert "+0.100 [+0.080, +0.120]" in text
    assert set(re.findall(r'data-chart="([\w-]+)"', outside)) == set(charts.draw(data))


def test_the_table_of_reflection_scrolls_in_its_own_box_on_a_phone(workspace: Workspace, tmp_path: Path) -> None:
    path = write_report(workspace, tmp_path / "report.html")
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 390, "height": 900})
        opened.goto(path.as_uri())
        box = opened.locator(".scroll", has_text="spoiled")
        wide, room = box.evaluate("(e) => [e.scrollWidth, e.clientWidth]")
        cells = box.evaluate(
            "(e) => [...e.querySelectorAll('tbody td')].map((td) => td.getBoundingClientRect().height)"
        )
        shadow = box.evaluate("(e) => getComputedStyle(e).backgroundImage")
        page_width = opened.evaluate("document.documentElement.scrollWidth")
    assert page_width <= 390 and wide > room and "gradient" in shadow
    assert max(cells) < 60  # at most two lines: no column is squeezed to a word a line


def test_an_evolution_without_a_judge_says_nothing_of_one(tmp_path: Path) -> None:
    plain = gather(write_evolution(tmp_path / "evolution", "fused", 1))
    assert plain.judge is None
    text = page.render(plain)
    assert "The policy as a judge" not in text and "Tasks it made itself" not in text
    assert not {"judge", "reflected"} & charts.draw(plain).keys()


def test_anchors_are_no_arms_of_the_curriculum() -> None:
    rows = [written.task("sort-03", split, 0) for split in ("train", "val")]
    anchor = dataclasses.replace(rows[1], task_id="judge-point/anchor/00000x", arm="judge-point", split="anchor")
    table = schema.to_table(TaskRow, [*rows, anchor])
    assert [arm.name for arm in report_data._arms(table)] == ["sort-03"]
