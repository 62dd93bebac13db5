"""How an iteration's wall time splits into work, overhead and idle time, on ledgers written by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar.ledger import Entry, Kind
from instar.timeline import IDLE_S, Elapsed, elapsed, union


class Book:
    """Entries of one evolution, opened at second 0."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._add("open", {}, {"at": 0.0})

    def stage(self, name: str, started: float, ended: float, work: float, **perf: float) -> None:
        time = {"started": started, "ended": ended, "perf/wall_s": work, **perf}
        self._add("stage", {"stage": name, "iteration": 0}, time)

    def gate(self, iteration: int, at: float) -> None:
        self._add("gate", {"iteration": iteration}, {"at": at})

    def _add(self, kind: Kind, body: dict[str, Any], time: dict[str, float]) -> None:
        self.entries.append(Entry(seq=len(self.entries), prev="", kind=kind, body=body, time=time))


def test_an_iteration_reaches_from_gate_to_gate() -> None:
    """Opened at 0, first gate at 40 with 20 s of work; second gate at 100 with 30 + 15 s in 60 s."""
    book = Book()
    book.stage("dataset_prep", 10, 35, 20)
    book.gate(0, 40)
    book.stage("fused", 45, 80, 30)
    book.stage("evaluate", 80, 98, 15)
    book.gate(1, 100)
    first, second = elapsed(book.entries)
    assert (first.iteration, first.at, first.elapsed_s, first.work_s) == (0, 40, 40, 20)
    assert (second.elapsed_s, second.work_s, second.idle_s) == (60, 45, 0)
    assert second.metrics() == {"overhead_share": pytest.approx(0.25), "goodput": pytest.approx(0.75), "idle_s": 0}


def test_shards_that_overlap_count_once() -> None:
    """Work at 0-30, 10-40, 35-45 and 60-70 covers 45 + 10 of 80 s; its sum would be 80 s, an overhead of 0."""
    book = Book()
    for started, work in ((0.0, 30.0), (10.0, 30.0), (35.0, 10.0), (60.0, 10.0)):
        book.stage("rollout", started, started + work, work)
    book.gate(0, 80)
    (found,) = elapsed(book.entries)
    assert found.work_s == 55 and found.overhead_share == pytest.approx(25 / 80)


def test_a_fused_segment_works_as_long_as_its_stages() -> None:
    """The function took 50 s, 38 of them in stages: the hashing between them is overhead."""
    book = Book()
    inner = {"perf/rollout/wall_s": 30.0, "perf/update/wall_s": 8.0, "perf/rollout/tokens_per_s": 900.0}
    book.stage("fused", 0, 55, 50, **inner)
    book.gate(0, 60)
    assert elapsed(book.entries)[0].work_s == 38


def test_a_night_between_two_processes_is_idle_not_overhead() -> None:
    """30 s of work, stopped for a day in the middle of the iteration, 30 s of work, 5 s until the gate."""
    book = Book()
    book.stage("rollout", 0, 30, 30)
    book.stage("update", 86_430, 86_460, 30)
    book.gate(0, 86_465)
    (found,) = elapsed(book.entries)
    assert (found.elapsed_s, found.idle_s) == (86_465, 86_400)
    assert found.overhead_share == pytest.approx(5 / 65)


def test_a_night_between_two_iterations_is_idle_too() -> None:
    book = Book()
    book.stage("evaluate", 0, 10, 10)
    book.gate(0, 10)
    book.stage("fused", 90_010, 90_030, 20)
    book.gate(1, 90_035)
    assert elapsed(book.entries)[1].idle_s == 90_000
    assert elapsed(book.entries)[1].overhead_share == pytest.approx(5 / 25)


@pytest.mark.parametrize(("gap", "idle"), [(IDLE_S, 0.0), (IDLE_S + 1, IDLE_S + 1)])
def test_a_gap_is_idle_above_the_limit_only(gap: float, idle: float) -> None:
    book = Book()
    book.stage("rollout", gap, gap + 100, 100)
    book.gate(0, gap + 100)
    assert elapsed(book.entries)[0].idle_s == idle


def test_a_long_commit_is_overhead_and_never_idle() -> None:
    """The stage's function ends at 100, its outputs are stored at 2000: nothing is idle while a stage is not over."""
    book = Book()
    book.stage("update", 0, 2000, 100)
    book.gate(0, 2000)
    (found,) = elapsed(book.entries)
    assert (found.idle_s, found.overhead_share) == (0, pytest.approx(0.95))


def test_work_before_the_gate_counts_though_the_ledger_was_written_later() -> None:
    """A pipeline's last task replays records into the ledger: order and gap of the entries are not those of the work."""
    book = Book()
    book.stage("evaluate", 50, 90, 40)
    book.stage("fused", 10, 50, 40)
    book.gate(0, 100)
    assert elapsed(book.entries)[0].work_s == 80


def test_clocks_that_disagree_stay_inside_the_iteration() -> None:
    """A node whose clock is behind reports a start before the last gate, one that is ahead an end after its own."""
    book = Book()
    book.stage("evaluate", 0, 10, 10)
    book.gate(0, 10)
    book.stage("fused", 4, 20, 16)
    book.stage("evaluate", 20, 33, 13)
    book.gate(1, 30)
    second = elapsed(book.entries)[1]
    assert (second.elapsed_s, second.work_s, second.overhead_share) == (23, 23, 0)


def test_what_follows_the_last_gate_and_an_empty_ledger_belong_to_no_iteration() -> None:
    assert elapsed([]) == []
    book = Book()
    book.stage("evaluate", 0, 10, 10)
    assert elapsed(book.entries) == []
    book.gate(0, 10)
    book.stage("evaluate", 10, 90, 1)
    assert [e.work_s for e in elapsed(book.entries)] == [10]


def test_an_iteration_without_time_has_no_overhead() -> None:
    assert Elapsed(iteration=1, at=0, elapsed_s=700, work_s=0, idle_s=700).overhead_share == 0


@given(st.lists(st.tuples(st.integers(-5, 30), st.integers(-5, 30)), max_size=8))
def test_union_covers_every_second_exactly_once(intervals: list[tuple[int, int]]) -> None:
    found = union([(float(a), float(b)) for a, b in intervals], 0.0, 24.0)
    covered = [s for s in range(24) if any(a <= s < b for a, b in intervals)]
    assert [s for a, b in found for s in range(int(a), int(b))] == covered
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(found))
