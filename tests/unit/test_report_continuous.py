"""The report of a continuous-control recipe against the hand-written evolution: returns, data, episodes, and no word about
answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from instar.report import continuous_data, markdown, write_report
from instar.report.continuous_data import Continuous, Target, thin
from instar.report.data import Data, gather
from instar.report.evaluations import Score
from instar.workspace import Workspace
from support.written_continuous import (
    AT_PROBE,
    AT_TARGET,
    BETA,
    EXPERT,
    ITERATIONS,
    PROBE,
    RANDOM,
    RETURNS,
    STARTS,
    TARGET,
    write_continuous,
)

for _name in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install 'instar[report]'")

from instar.report import charts, page, tiles  # noqa: E402
from instar.report.charts.continuous import BINS, bin_width  # noqa: E402


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_continuous(tmp_path_factory.mktemp("continuous") / "evolution")


@pytest.fixture(scope="module")
def data(workspace: Workspace) -> Data:
    return gather(workspace)


def continuous(data: Data) -> Continuous:
    assert data.continuous is not None
    return data.continuous


def test_scores_champion_and_the_best_beside_it(data: Data) -> None:
    assert data.measure == "normalised_score"
    assert [data.macro(k).value for k in range(5)] == pytest.approx(AT_TARGET)  # type: ignore[union-attr]
    assert data.champion == ITERATIONS
    best = data.best()
    assert best is not None and (best.iteration, best.value) == (3, pytest.approx(0.8))
    ((base, last, comparison),) = data.tests
    assert (base.split, base.value, last.value) == ("id", pytest.approx(0.0), pytest.approx(0.7))
    assert comparison is not None and comparison["difference"] == pytest.approx(0.7)


def test_targets_come_first_and_returns_follow_from_scores(data: Data) -> None:
    found = continuous(data)
    assert [(t.asked, t.probe, t.random, t.expert) for t in found.targets] == [
        (TARGET, False, RANDOM, EXPERT),
        (PROBE, True, RANDOM, EXPERT),
    ]
    target, probe = found.targets
    assert [target.reached(s.value) for s in found.of(target)] == pytest.approx([-1200, -900, -600, -400, -500])
    assert [s.value for s in found.of(probe)] == pytest.approx(AT_PROBE)
    assert probe.reached(found.of(probe)[-1].value) == pytest.approx(PROBE)  # does as it is told
    assert found.gap() == pytest.approx(0.7 - 0.3)


def test_probes_of_the_final_test_are_not_counted_twice(data: Data) -> None:
    """The evaluations on the test split run the probes again: the curve has one point per iteration all the same."""
    found = continuous(data)
    assert [s.iteration for s in found.of(found.targets[1])] == list(range(ITERATIONS + 1))


def test_logged_data_by_arm(data: Data) -> None:
    worst, best = continuous(data).tiers
    assert (worst.arm, worst.steps, worst.returns) == ("random 100%", 60, sorted(RETURNS["random 100%"]))
    assert (best.arm, best.steps, best.mean) == ("random 40%", 60, pytest.approx(-400.0))
    assert [(a.name, a.level) for a in data.arms if a.trained] == [
        ("random 100%", pytest.approx(-1100.0)),
        ("random 40%", pytest.approx(-400.0)),
    ]


def test_episodes_are_paired_by_start_state(data: Data) -> None:
    found = continuous(data).episodes
    assert [e.after for e in found] == pytest.approx([-600, -500, -500, -400])
    assert [e.before for e in found] == pytest.approx([-1300, -1200, -1200, -1100])
    assert [e.seed for e in found] == [100, 101, 102, 103] and {e.asked for e in found} == {TARGET}


def test_a_task_without_a_score_is_left_out(workspace: Workspace) -> None:
    from instar.artifact import Evaluation, Tasks

    stages = list(workspace.ledger.of("stage"))
    tasks = Tasks(workspace.cas.get(stages[0].body["outputs"]["tasks"])).table()
    made = Evaluation(workspace.cas.get(stages[1].body["outputs"]["evaluation"]))
    empty = Evaluation(workspace.fresh_scratch("empty"))
    empty.write(r for r in made.read() if r.task_id.endswith("/0"))
    empty.write_json("summary.json", {})
    assert [e.seed for e in continuous_data.pair_episodes(tasks, empty, made)] == [100]


def values(spec: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["datasets"][part["data"]["name"]]
    return found


def test_every_chart_of_the_fixture_is_drawn_and_none_about_text(data: Data) -> None:
    found = charts.draw(data)
    own = {"macro", "obtained", "return-0", "return-1", "tiers", "episodes", "shares", "cost", "arm_loss", "arm_fall"}
    assert set(found) == own | set(charts.CONTINUOUS_LINES)
    words = " ".join(f"{c.title} {c.says}" for c in found.values()).lower()
    assert not re.search(r"accura|answer|prompt|token|mastered", words)


def test_returns_are_drawn_with_what_was_asked_and_both_references(data: Data) -> None:
    spec = charts.draw(data)["return-1"].spec
    points = [values(spec, layer) for layer in spec["layer"]]
    marks = {row["label"]: row["at"] for rows in points for row in rows if "label" in row}
    assert marks == {"random": RANDOM, "expert": EXPERT, "asked for": PROBE}
    curve = next(rows for rows in points if "value" in rows[0])
    assert [p["value"] for p in curve] == pytest.approx([-1200, -1000, -900, -900, -900])
    assert all(p["low"] <= p["value"] <= p["high"] for p in curve)
    assert charts.draw(data)["return-0"].title == "Asked for \u2212150"


def test_shares_are_those_of_the_drawn_windows_in_bars(data: Data) -> None:
    spec = charts.draw(data)["shares"].spec
    assert spec["mark"]["type"] == "bar"
    rows = [r for r in values(spec, spec) if r["arm"] == "random 40%"]
    assert [(r["step"], r["value"]) for r in rows] == [(k, pytest.approx(0.4 + 0.1 * k)) for k in range(1, 5)]


def test_beta_is_drawn_per_iteration(data: Data) -> None:
    spec = charts.draw(data)["beta"].spec
    assert [(r["step"], r["value"]) for r in values(spec, spec)] == list(enumerate(BETA, start=1))


def test_loss_by_arm_has_every_iteration(data: Data) -> None:
    spec = charts.draw(data)["arm_loss"].spec
    worst = [r["value"] for r in values(spec, spec) if r["arm"] == "random 100%"]
    assert worst == pytest.approx([1.0, 1 / 2, 1 / 3, 1 / 4], rel=1e-5)


def test_histogram_counts_every_episode_once(data: Data) -> None:
    spec = charts.draw(data)["tiers"].spec
    rows = values(spec, spec["layer"][0])
    assert sum(r["episodes"] for r in rows) == 6
    for arm, returns in RETURNS.items():
        for value in returns:
            assert sum(r["from"] <= value < r["to"] for r in rows if r["arm"] == arm) == 1


@pytest.mark.parametrize(("low", "high", "width"), [(-1200, -300, 50), (0, 36, 1), (0, 1, 0.05), (5, 5, 1)])
def test_bins_are_round_and_few(low: float, high: float, width: float) -> None:
    assert bin_width(low, high) == pytest.approx(width)
    assert (high - low) / bin_width(low, high) <= BINS


def test_tiles_show_the_last_policy_and_name_the_best(data: Data) -> None:
    found = {t["label"]: t for t in tiles.tiles(data)}
    headline = found["normalised score, base to last"]
    assert headline["value"] == "0.00 → 0.70" and "best 0.80 after iteration 3" in headline["note"]
    told = found["follows the asked return"]
    assert (
        told["value"] == "+0.40"
        and "\u2212900 gets \u2212900" in told["note"]
        and "\u2212150 gets \u2212500" in told["note"]
    )
    assert found["windows"]["value"] == "2,560" and "120 logged steps in 6 episodes" in found["windows"]["note"]
    assert found["test (id)"]["value"] == "0.00 → 0.70" and "gain +0.70" in found["test (id)"]["note"]


def test_page_is_whole_escaped_and_has_no_empty_section(workspace: Workspace, tmp_path: Path) -> None:
    text = write_report(workspace, tmp_path / "report.html").read_text()
    outside = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert "<i>measured</i>" not in outside and "&lt;i&gt;measured&lt;/i&gt;" in outside
    specs = json.loads(re.findall(r'<script type="application/json" id="specs">(.*?)</script>', text, re.DOTALL)[0])
    assert set(re.findall(r'data-chart="([\w-]+)"', outside)) == set(specs)
    assert not re.search(r"accura|answer|prompt", outside, re.IGNORECASE)
    titles = re.findall(r"<h2>(.*?)</h2>", outside)
    assert titles == [
        "Normalised score",
        "Asked for and reached",
        "Return by target",
        "The logged data",
        "What the curriculum chose",
        "The same start states, before and after",
        "Training signal",
        "Health of the update",
        "Gate decisions",
        "Lineage",
        "Seconds per stage",
        "Cost",
        "Configuration",
    ]
    assert outside.count("<td><code>10") == STARTS


@pytest.mark.slow  # tests/unit/test_report.py does the same for text, and the loop writes a page after each iteration
def test_page_at_every_point_of_a_run(tmp_path: Path) -> None:
    made = write_continuous(tmp_path / "evolution", 1)
    entries = made.ledger.entries
    for end in range(len(entries) + 1):
        made.ledger.entries = entries[:end]
        data = gather(made)
        assert data.continuous is not None or end == 0
        text = page.render(data)
        assert text.endswith("</html>") and not data.notes
        assert ("No evaluation is in the ledger yet." in text) == (not data.curve)


def test_lost_tasks_are_a_note_not_a_missing_page(tmp_path: Path) -> None:
    made = write_continuous(tmp_path / "evolution", 1)
    digest = next(made.ledger.of("stage")).body["outputs"]["tasks"].removeprefix("sha256:")
    (made.path / "store" / f"manifests/{digest[:2]}" / f"{digest}.json").unlink()
    data = gather(made)
    assert continuous(data).targets == [] and "task pools could not be read" in data.notes[0]
    assert "macro" in charts.draw(data) and page.render(data).endswith("</html>")


def test_gap_needs_a_target_and_a_probe() -> None:
    asked = Target(arm="t", asked=1.0, probe=False, random=0.0, expert=1.0, label="")
    score = Score(iteration=0, split="val", arm="t", value=0.5, low=0.4, high=0.6)
    assert Continuous(targets=[asked], scores=[score]).gap() is None
    assert Continuous().gap() is None


def test_thin_keeps_both_ends() -> None:
    assert thin(list(range(100)), 3) == [0, 50, 99]  # round half to even: 49.5 is 50
    assert thin([1, 2], 3) == [1, 2]


def test_pipelines_page_shows_scores_and_returns(workspace: Workspace) -> None:
    text = markdown.page(workspace)
    assert "| iteration | normalised score | champion now | decision |" in text
    assert "| 3 | 0.800 | yes | continue: reason 3 |" in text
    assert "| start | asked for | first policy | this policy | steps |" in text
    assert "| 100 | -150 | -1300 | -600 | 200 |" in text and "| 103 | -900 | -1100 | -800 | 200 |" in text
    assert not re.search(r"accura|answer|prompt", text, re.IGNORECASE)
