from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.errors import LedgerError, LockedError
from instar.ledger import GENESIS, Entry, Ledger, memo_key
from instar.store import LocalStore

NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
D1 = "sha256:" + "1" * 64
VALID: dict[str, dict[str, Any]] = {
    "open": {
        "name": "sec",
        "scale": "tiny",
        "seed": 0,
        "code": "c",
        "recipe": {"iterations": 1, "inner_steps": 1},
    },
    "stage": {
        "stage": "update",
        "iteration": 1,
        "step": 0,
        "key": "k1",
        "inputs": {},
        "outputs": {"policy": D1},
        "metrics": {"loss": 0.25},
        "code": "c",
    },
    "gate": {
        "iteration": 0,
        "evaluation": D1,
        "baseline": "",
        "decision": {"action": "continue", "reason": "", "promote": True},
    },
    "promote": {"policy": D1, "evaluation": D1, "model": "m"},
    "accept_code": {"code": "c"},
    "close": {"reason": "done", "iterations": 1, "policy": D1, "champion": D1},
}
"""What an entry must hold; it may hold more."""
MORE = st.dictionaries(st.text(max_size=5).map("x".__add__), VALUES, max_size=4)
TIMES = st.dictionaries(st.text(max_size=5).map("perf/".__add__), NUMBERS, max_size=4)
APPENDS = st.lists(st.tuples(st.sampled_from(sorted(VALID)), MORE, TIMES), max_size=5)


def ledger(folder: Path | str, name: str = "e") -> Ledger:
    return Ledger(LocalStore(Path(folder), durable=False), name)


def three(folder: Path) -> Ledger:
    out = ledger(folder)
    out.append("open", VALID["open"], {"at": 1.5})
    out.append("stage", VALID["stage"], {"perf/wall_s": 2.0})
    out.append("close", VALID["close"], {})
    return out


@settings(max_examples=40, deadline=None)
@given(APPENDS)
def test_any_sequence_of_appends_reloads_equal(appends: list[tuple[Any, dict[str, Any], dict[str, Any]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = ledger(folder)
        for kind, more, time in appends:
            written.append(kind, {**VALID[kind], **more}, time)
        read = ledger(folder)
        assert read.entries == written.entries
        assert read.head == written.head
        assert [e.seq for e in read.entries] == list(range(len(appends)))


@settings(max_examples=40, deadline=None)
@given(APPENDS, TIMES)
def test_head_does_not_depend_on_time(
    appends: list[tuple[Any, dict[str, Any], dict[str, Any]]], other: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, two = ledger(folder, "one"), ledger(folder, "two")
        for kind, more, time in appends:
            one.append(kind, {**VALID[kind], **more}, time)
            two.append(kind, {**VALID[kind], **more}, other)
        assert one.head == two.head


@pytest.mark.parametrize("change", [{"seq": 1}, {"prev": "1" * 64}, {"kind": "close"}, {"body": {"seed": 1}}], ids=str)
def test_head_depends_on_everything_else(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"seq": 0, "prev": GENESIS, "kind": "open", "body": {"seed": 0}, "time": {}}
    assert Entry(**fields).digest != Entry(**{**fields, **change}).digest


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2), st.integers(0, 10**6), st.integers(1, 255))
def test_a_wrong_byte_is_refused_wherever_it_is(number: int, position: int, mask: int) -> None:
    """`time` is outside of the digest that makes the head, and under a seal of its own."""
    with tempfile.TemporaryDirectory() as folder:
        written = three(Path(folder))
        path = Path(folder) / f"{written.prefix}{number:08d}.json"
        data = bytearray(path.read_bytes())
        data[position % len(data)] ^= mask
        path.chmod(0o644)
        path.write_bytes(data)
        try:
            read = ledger(folder)
        except LedgerError as error:
            assert path.name in error.where
        else:
            assert read.entries == written.entries, "another spelling of the same numbers"


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"seq": 0}', b"\xff\xfe", b'"text"', b"{}"], ids=repr)
def test_what_is_not_an_entry_is_refused(tmp_path: Path, data: bytes) -> None:
    written = three(tmp_path)
    written.store.put_bytes(f"{written.prefix}00000001.json", data)
    with pytest.raises(LedgerError, match=r"00000001\.json"):
        ledger(tmp_path)


def test_a_missing_entry_is_refused(tmp_path: Path) -> None:
    written = three(tmp_path)
    (tmp_path / f"{written.prefix}00000001.json").unlink()
    with pytest.raises(LedgerError, match="entry 1 after"):
        ledger(tmp_path)


def test_an_entry_of_another_ledger_is_refused(tmp_path: Path) -> None:
    mine = three(tmp_path)
    other = ledger(tmp_path, "other")
    other.append("open", {**VALID["open"], "seed": 9}, {})
    foreign = other.append("stage", {**VALID["stage"], "key": "x"}, {})
    mine.store.put_bytes(f"{mine.prefix}00000001.json", foreign.dump())
    with pytest.raises(LedgerError, match="00000001"):
        ledger(tmp_path)


def test_the_second_writer_is_locked_out_and_changes_nothing(tmp_path: Path) -> None:
    one, two = ledger(tmp_path), ledger(tmp_path)
    one.append("open", {**VALID["open"], "by": "one"}, {})
    with pytest.raises(LockedError, match=r"00000000\.json"):
        two.append("open", {"by": "two"}, {})
    assert two.entries == [] and two.head == GENESIS
    assert [e.body["by"] for e in ledger(tmp_path).entries] == ["one"]


def test_one_of_many_racing_writers_wins(tmp_path: Path) -> None:
    writers = [ledger(tmp_path) for _ in range(8)]

    def attempt(number: int) -> bool:
        try:
            writers[number].append("open", {**VALID["open"], "by": number}, {})
        except LockedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert ledger(tmp_path).entries[0].body["by"] == won.index(True)


def test_committed_finds_stage_entries_after_a_reload(tmp_path: Path) -> None:
    three(tmp_path)
    found = ledger(tmp_path).committed("k1")
    assert found is not None and found.body["outputs"] == {"policy": D1}
    assert ledger(tmp_path).committed("k2") is None


def test_metrics_that_are_not_finite_never_enter_the_ledger(tmp_path: Path) -> None:
    written = ledger(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        written.append("stage", {"key": "k", "metrics": {"loss": float("nan")}}, {})
    assert ledger(tmp_path).entries == []


def test_stored_form_is_one_line_of_sorted_json(tmp_path: Path) -> None:
    written = three(tmp_path)
    data = written.store.read(f"{written.prefix}00000000.json")
    raw = json.loads(data)
    assert data == json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    assert raw["digest"] == written.entries[0].digest


BASE: dict[str, Any] = {
    "stage": "update",
    "version": 1,
    "config": "c",
    "inputs": {"a": "1", "b": "2"},
    "evolution": "e",
    "step": 3,
}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "reward"},
        {"version": 2},
        {"config": "d"},
        {"inputs": {"a": "2", "b": "1"}},
        {"evolution": "f"},
        {"step": 4},
    ],
    ids=lambda c: next(iter(c)),
)
def test_memo_key_depends_on_every_part(change: dict[str, Any]) -> None:
    assert memo_key(**BASE) != memo_key(**{**BASE, **change})


def test_memo_key_does_not_depend_on_the_order_of_inputs() -> None:
    assert memo_key(**BASE) == memo_key(**{**BASE, "inputs": {"b": "2", "a": "1"}})
