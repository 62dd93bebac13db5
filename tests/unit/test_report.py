"""The report's numbers against the hand-written evolution, and its page: whole and escaped. About 15 s."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from instar.report import write_report
from instar.report.data import Cost, Data, Gate, gather
from instar.timeline import Elapsed
from instar.workspace import Workspace, create_workspace
from support.written import CORRECT, EVIL, INNER, ITERATIONS, ROLLOUTS, TASKS, write_evolution

for _name in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install 'instar[report]'")

from instar.report import charts, page  # noqa: E402
from instar.report.charts import style  # noqa: E402


@pytest.fixture(scope="module", params=["rounds", "fused"])
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_evolution(tmp_path_factory.mktemp(request.param) / "evolution", request.param)


def test_accuracies_with_intervals(workspace: Workspace) -> None:
    data = gather(workspace)
    curve = {(a.iteration, a.arm): a for a in data.curve}
    for arm, counts in CORRECT.items():
        assert [curve[k, arm].value for k in range(ITERATIONS + 1)] == pytest.approx([c / TASKS for c in counts])
    assert [curve[k, ""].value for k in range(5)] == pytest.approx([5 / 30, 8 / 30, 13 / 30, 19 / 30, 25 / 30])
    # Wilson, 4 of 10 at 95 %: (0.1682, 0.6873)
    assert (curve[0, "sort-03"].low, curve[0, "sort-03"].high) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert data.iterations == (ITERATIONS, ITERATIONS)
    assert [data.mastered(k) for k in range(5)] == [0, 0, 1, 1, 2]


def test_champion_gates_and_tests(workspace: Workspace) -> None:
    data = gather(workspace)
    assert data.champion == 3
    assert [(g.iteration, g.action, g.promoted) for g in data.gates] == [
        (0, "continue", True),
        (1, "continue", True),
        (2, "hold", False),
        (3, "continue", True),
        (4, "rollback", False),
    ]
    close = next(workspace.ledger.of("close")).body
    assert (data.gates[3].policy, data.gates[4].policy) == (close["champion"], close["policy"])
    ((base, best, comparison),) = data.tests
    assert (base.split, base.value, best.value) == ("id", pytest.approx(5 / 30), pytest.approx(19 / 30))
    assert comparison is not None and comparison["difference"] == pytest.approx(14 / 30)


def test_steps_arms_and_costs(workspace: Workspace) -> None:
    data = gather(workspace)
    steps = INNER * ITERATIONS
    assert list(data.steps) == list(range(steps))
    assert [m["update/grad_norm"] for m in data.steps.values()] == [1.0 + s for s in range(steps)]
    assert data.steps[3]["curriculum/sort-05/p"] == pytest.approx(0.4)
    assert data.rollouts == ROLLOUTS * steps
    assert [(a.name, a.level, a.trained) for a in data.arms] == [
        ("sort-03", 3.0, True),
        ("sort-04", 4.0, True),
        ("sort-05", 5.0, True),
    ]
    totals = {name: (wall, cpu) for name, wall, cpu in page.stage_totals(data.costs)}
    entries = len(list(workspace.ledger.of("stage")))
    if "fused" in {e.body["stage"] for e in workspace.ledger.of("stage")}:
        assert totals["rollout"] == pytest.approx((0.4 * ITERATIONS, 0.5 * ITERATIONS))
        # every segment: 2.5 s from start to end, 4 stages of 0.4 s
        assert totals["overhead"][0] == pytest.approx(0.9 * ITERATIONS + 0.5 * (entries - ITERATIONS))
    else:
        assert totals["rollout"] == pytest.approx((2.0 * steps, 3.0 * steps))
        assert page.overhead(data.costs) == pytest.approx(0.5 / 2.5)
    assert sum(wall for wall, _ in totals.values()) == pytest.approx(2.5 * entries)
    assert sum(cpu for _, cpu in totals.values()) == pytest.approx(3.0 * entries)


def test_goodput_is_in_the_summary_and_beside_the_costs(workspace: Workspace) -> None:
    """Iteration 0 has three stages, the others nine (rounds) or two (fused): 2 s of work, or 1.6 in a fused one, every 3 s."""
    data = gather(workspace)
    rounds = "fused" not in {e.body["stage"] for e in workspace.ledger.of("stage")}
    elapsed_s, work_s = (9 + 4 * 27, 6 + 4 * 18) if rounds else (9 + 4 * 6, 6 + 4 * 3.6)
    whole = page.spent(data.elapsed)
    assert whole is not None and (whole.elapsed_s, whole.work_s) == pytest.approx((elapsed_s, work_s))
    goodput, overhead = ("66.7%", "33.3%") if rounds else ("61.8%", "38.2%")
    tile = next(t for t in page.tiles(data) if t["label"] == "goodput")
    assert tile["value"] == goodput and overhead in tile["note"]
    text = re.sub(r"<script.*?</script>|\s+", " ", page.render(data), flags=re.DOTALL)
    most = "33.3%" if rounds else "40.0%"
    assert f"Goodput {goodput}: in" in text and f"overhead: {overhead}, and per iteration at most {most}." in text
    assert "Idle" not in text


def test_idle_time_is_named_on_the_page() -> None:
    spent = [Elapsed(iteration=0, at=0.0, elapsed_s=7265.0, work_s=60.0, idle_s=7200.0)]
    costs = [Cost(iteration=0, stage="fused", wall_s=60.0, cpu_s=60.0)]
    data = Data(evolution="e", opened={}, status="", reason="", head="", costs=costs, elapsed=spent)
    text = re.sub(r"\s+", " ", page.render(data))
    assert "Goodput 92.3%: in 65 s" in text and "Idle, and not counted: 2 h." in text


def test_samples_show_what_changed_and_what_is_still_wrong(workspace: Workspace) -> None:
    samples = gather(workspace).samples
    by_arm = {s.arm: [t for t in samples if t.arm == s.arm] for s in samples}
    assert {arm: len(found) for arm, found in by_arm.items()} == dict.fromkeys(CORRECT, 2)
    gained, wrong = by_arm["sort-05"]
    assert (gained.task_id, gained.first.correct, gained.last.correct) == ("sort-05/val/000", 0.0, 1.0)
    assert (wrong.first.correct, wrong.last.correct) == (0.0, 0.0)
    assert (gained.reference, gained.last.text) == ("right 0", "right 0")
    assert gained.first.text == f"wrong {EVIL}"


def values(spec: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["datasets"][part["data"]["name"]]
    return found


def test_every_chart_of_the_fixture_is_drawn(workspace: Workspace) -> None:
    found = charts.draw(gather(workspace))
    assert set(found) == {"climb", "macro", "shares", "cost", *charts.LINES, "arm-0", "arm-1", "arm-2"}
    cells = values(found["climb"].spec, found["climb"].spec["layer"][0])
    assert len(cells) == 3 * (ITERATIONS + 1)
    assert found["climb"].spec["layer"][0]["encoding"]["y"]["sort"] == ["sort-05", "sort-04", "sort-03"]
    area = values(found["shares"].spec, found["shares"].spec)
    assert sum(v["value"] for v in area if v["step"] == 2) == pytest.approx(1.0)
    assert all(chart.says for chart in found.values())


@pytest.mark.parametrize(
    ("first", "points", "ticks", "found"),
    [
        (0, 1, 10, [0]),
        (0, 2, 10, [0, 1]),
        (1, 3, 5, [1, 2, 3]),
        (0, 9, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (0, 9, 5, [0, 2, 4, 6, 8]),
        (1, 40, 10, [5, 10, 15, 20, 25, 30, 35, 40]),
        (0, 40, 5, [0, 10, 20, 30]),
    ],
)
def test_ticks_are_whole_numbers_each_once(first: int, points: int, ticks: int, found: list[int]) -> None:
    axis = style.whole(range(first, first + points), ticks).to_dict()
    assert axis["values"] == found and "tickCount" not in axis


def test_page_is_whole_and_escaped(workspace: Workspace, tmp_path: Path) -> None:
    text = write_report(workspace, tmp_path / "report.html").read_text()
    outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert EVIL not in text and "&lt;script&gt;document.title" in outside
    assert "sort &amp; order &lt;b&gt;0&lt;/b&gt;" in outside
    assert text.count("<script") == text.count("</script>") == 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", outside)
    specs = json.loads(re.findall(r'<script type="application/json" id="specs">(.*?)</script>', text, re.DOTALL)[0])
    assert set(re.findall(r'data-chart="([\w-]+)"', outside)) == set(specs)
    assert "17% → 63%" in outside and "0 → 1 of 3" in outside
    assert len(text) < 3_000_000 and list(tmp_path.iterdir()) == [tmp_path / "report.html"]


@pytest.mark.parametrize("clock", [pytest.param("rounds", marks=pytest.mark.slow), "fused"])
def test_page_at_every_point_of_a_run(tmp_path: Path, clock: str) -> None:
    made = write_evolution(tmp_path / "evolution", clock, 1)
    entries = made.ledger.entries
    for end in range(len(entries) + 1):
        made.ledger.entries = entries[:end]
        data = gather(made)
        assert data.status == ("finished" if end == len(entries) else "unfinished")
        assert page.render(data).endswith("</html>")
        assert not data.notes


def test_empty_workspace_has_a_page(tmp_path: Path) -> None:
    text = write_report(create_workspace(tmp_path / "e", "nothing-yet"), tmp_path / "report.html").read_text()
    assert "the ledger is empty" in text and "No evaluation is in the ledger yet." in text


def test_lost_artifact_is_a_note_not_a_missing_page(tmp_path: Path) -> None:
    made = write_evolution(tmp_path / "evolution", "fused", 2)
    segment = [e for e in made.ledger.of("stage") if e.body["stage"] == "fused"][1]
    name = f"manifests/{segment.body['outputs']['history'].removeprefix('sha256:')[:2]}"
    digest = segment.body["outputs"]["history"].removeprefix("sha256:")
    (made.path / "store" / name / f"{digest}.json").unlink()
    data = gather(made)
    assert list(data.steps) == [0, 1]
    assert len(data.notes) == 1 and "history of iteration 2" in data.notes[0]
    assert "This page is incomplete." in page.render(data)


def test_sample_of_the_arm_that_gained_most_is_open(workspace: Workspace) -> None:
    data = gather(workspace)
    assert page.most_gained(data) == "sort-04"  # 1 to 9 of 10; the others gain 6
    assert re.findall(r"<details open>\s*<summary>([\w-]+):", page.render(data)) == ["sort-04"]


def test_lineage_goes_back_to_the_champion_after_a_rollback() -> None:
    gates = [("continue", True), ("continue", True), ("rollback", False), ("hold", False)]
    made = [
        Gate(iteration=i, action=a, promoted=p, reason="", policy=f"p{i}", evaluation=f"e{i}")
        for i, (a, p) in enumerate(gates)
    ]
    data = gather_with(made, champion=1)
    assert [link["parent"] for link in page.lineage(data)] == [None, 0, 1, 1]
    assert [link["champion"] for link in page.lineage(data)] == [False, True, False, False]


def gather_with(gates: list[Gate], champion: int) -> Data:
    return Data(evolution="e", opened={}, status="", reason="", head="", gates=gates, champion=champion)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (89.0, "89 s"), (90.0, "1.5 min"), (5399.0, "90 min"), (7200.0, "2 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert page.duration(seconds) == text


def test_overhead_of_nothing_is_nothing() -> None:
    assert page.overhead([]) is None
    assert (
        page.overhead(
            [Cost(iteration=0, stage="overhead", wall_s=1, cpu_s=0), Cost(iteration=0, stage="x", wall_s=3, cpu_s=0)]
        )
        == 0.25
    )


def test_missing_extra_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from instar.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "instar.report.page", None)
    with pytest.raises(MissingDependencyError, match="instar\\[report\\]"):
        write_report(create_workspace(tmp_path / "e", "nothing-yet"), tmp_path / "report.html")


def test_the_parts_of_a_users_reward_are_one_chart_where_there_are_several(workspace: Workspace) -> None:
    data = gather(workspace)
    assert "parts" not in charts.draw(data)
    one = {step: {**metrics, "reward/part/right": 0.25 + 0.125 * step} for step, metrics in data.steps.items()}
    assert "parts" not in charts.draw(dataclasses.replace(data, steps=one))
    two = {step: {**metrics, "reward/part/style.short": 1.0} for step, metrics in one.items()}
    chart = charts.draw(dataclasses.replace(data, steps=two))["parts"]
    assert "right from 0.25" in chart.says and "style.short from 1 to 1" in chart.says
    curves = {row["curve"] for rows in chart.spec["datasets"].values() for row in rows}
    assert curves == {"right", "style.short"}
    html = page.render(dataclasses.replace(data, steps=two))
    assert "Parts of the reward" in html and 'data-chart="parts"' in html
