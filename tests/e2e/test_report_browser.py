"""report.html of both kinds in a real browser: offline, no errors, every chart drawn, no sideways scrolling. About 30 s."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from instar.report import write_report
from support.browser import chromium
from support.written import write_evolution
from support.written_continuous import write_continuous

for _name in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(_name, reason=f"{_name} is not installed: pip install 'instar[report]'")

WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module", params=["text", "continuous"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "evolution"
    made = write_continuous(path) if request.param == "continuous" else write_evolution(path, "fused")
    return write_report(made, folder / f"{request.param}.html")


@pytest.fixture(scope="module", params=list(WIDTHS))
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """The opened page, which a test leaves as it was. What it asked for and complained about is in `requests` and `complaints`."""
    width = WIDTHS[request.param]
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    opened = context.new_page()
    opened.requests, opened.complaints = [], []
    opened.on("request", lambda r: opened.requests.append(r.url))
    opened.on("console", lambda m: opened.complaints.append(f"{m.type}: {m.text}"))
    opened.on("pageerror", lambda e: opened.complaints.append(str(e)))
    opened.goto(report.as_uri())
    opened.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
    yield opened
    context.close()


def test_opens_offline_without_complaint(page: Any, report: Path) -> None:
    asked = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [report.as_uri()]
    assert page.complaints == []


def test_every_chart_has_marks(page: Any) -> None:
    drawn = page.evaluate(
        """() => [...document.querySelectorAll("[data-chart]")].map((box) => {
            const svg = box.querySelector("svg");
            const size = svg ? svg.getBoundingClientRect() : {width: 0, height: 0};
            const kinds = ["rect", "area", "line", "symbol"].map((kind) => `.mark-${kind} path`);
            const marks = [...box.querySelectorAll(kinds.join(", "))];
            const inside = marks.filter((m) => !m.closest(".role-legend, .role-axis"));
            const seen = inside.filter((m) => { const b = m.getBoundingClientRect(); return b.width + b.height > 0; });
            const {width, height} = size;
            return {key: box.dataset.chart, width, height, room: box.clientWidth, marks: seen.length};
        })"""
    )
    assert len(drawn) > 10
    for chart in drawn:
        assert chart["marks"] > 0, chart
        assert 100 < chart["width"] <= chart["room"] + 1 and chart["height"] > 80, chart


def test_nothing_scrolls_sideways(page: Any) -> None:
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window
    sticking_out = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *")]
            .filter((e) => !e.closest(".scroll") && !e.closest("svg"))
            .filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1)
            .map((e) => e.tagName + "." + e.className)"""
    )
    assert sticking_out == []


def test_what_a_run_wrote_stays_text(page: Any, report: Path) -> None:
    name = "sec" if report.stem == "text" else "decision_mamba"
    assert page.title() == f"{name}-tiny-seed7 - instar"
    if report.stem == "text":
        assert page.locator("pre.answer", has_text="<script>document.title").count() > 0
    else:
        assert page.locator("p", has_text="<i>measured</i>").count() == 1


def test_tables_can_be_opened_and_do_not_scroll_the_page(page: Any) -> None:
    summaries = page.locator("summary").all()
    for summary in summaries:
        summary.click()
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    for summary in summaries:
        summary.click()
    assert wide <= window


def test_structure_can_be_read_without_seeing(page: Any) -> None:
    assert page.locator("h1").count() == 1
    unlabelled = page.evaluate(
        """() => [...document.querySelectorAll("[role=img]")].filter((e) => !e.ariaLabel?.trim()).length"""
    )
    assert unlabelled == 0
    levels = page.evaluate("""() => [...document.querySelectorAll("h1, h2, h3")].map((h) => Number(h.tagName[1]))""")
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_labels_of_iterations_are_whole_and_never_repeat(browser: Any, tmp_path: Path) -> None:
    """Of an evolution with two and one with three evaluations: Vega left alone labels 0.5 as 1 beside the 1."""
    for iterations in (1, 2):
        path = write_report(write_evolution(tmp_path / f"{iterations}", "fused", iterations), tmp_path / "few.html")
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
        page = context.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
        found = page.evaluate(
            """() => [...document.querySelectorAll("[data-chart] svg")].flatMap((svg) =>
                [...svg.querySelectorAll(".mark-group.role-axis")].map((axis) =>
                    [...axis.querySelectorAll(".role-axis-label text")].map((t) => t.textContent)))"""
        )
        context.close()
        numbers = [labels for labels in found if labels and all(label.isdigit() for label in labels)]
        assert [str(k) for k in range(iterations + 1)] in numbers
        assert all(len(set(labels)) == len(labels) for labels in numbers), numbers


def test_dark_page_draws_light_text(browser: Any, report: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        opened = browser.new_page(color_scheme=scheme)
        opened.goto(report.as_uri())
        opened.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
        body = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        label = opened.evaluate("""document.querySelector(".role-axis-label text").getAttribute("fill")""")
        found[scheme] = (body, label)
        opened.close()
    assert found["light"][0] == "rgb(255, 255, 255)" and found["dark"][0] == "rgb(13, 17, 23)"
    assert found["light"][1] != found["dark"][1]
