"""What a ledger notes beside its entries: equal work has one head wherever it ran, and a change is said in a sentence."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from instar.cli import commands
from instar.cli.show import diff
from instar.errors import LedgerError
from instar.ledger import Ledger
from instar.pipelines import versions
from instar.pipelines.lifecycle import open_evolution
from instar.records import Records
from instar.store import open_store
from instar.workspace import Workspace, create_workspace, open_workspace
from support.micro import micro

DIGEST = "sha256:" + "0" * 64
OTHER = {"torch": "2.12.0", "processor": "AuthenticAMD x86-64-v3", "threads": "64"}


def other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be a machine that differs in one note."""
    here = versions.notes()
    monkeypatch.setattr(versions, "notes", lambda threads=0: {**here, f"on/{name}": OTHER[name]})


def opened(path: Path) -> Workspace:
    workspace = create_workspace(path, "one")
    open_evolution(workspace, micro(), 0)
    return open_workspace(path)


def test_the_opening_entry_names_what_can_change_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_SCAN", "reference")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    (entry,) = opened(tmp_path).ledger.entries
    found = {name: value for name, value in entry.time.items() if name != "at"}
    assert found == versions.notes(micro().threads)
    for name in ("torch", "transformers", "numpy"):
        assert found[f"on/{name}"] == version(name)
    assert found["on/kernels"].startswith("decode ") and found["on/kernels"].endswith(" INSTAR_SCAN=reference")
    assert len(found["on/processor"].split()) == 2
    assert versions.notes()["on/threads"] == "3" and versions.notes(2)["on/threads"] == "2"


@pytest.mark.parametrize("name", OTHER)
def test_the_machine_is_said_by_diff_and_is_no_part_of_the_head(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = versions.notes(micro().threads)[f"on/{name}"]
    one = opened(tmp_path / "a")
    assert diff(tmp_path / "a", tmp_path / "a") == 0
    assert "they ran with" not in capsys.readouterr().out
    other(name, monkeypatch)
    two = opened(tmp_path / "b")
    assert one.ledger.head == two.ledger.head
    assert diff(tmp_path / "a", tmp_path / "b") == 0
    assert f"they ran with {name} {here} and {OTHER[name]}: equal work may differ there" in capsys.readouterr().out
    two.ledger.append(
        "close", {"reason": "planted", "iterations": 0, "policy": DIGEST, "champion": DIGEST}, {"at": 0.0}
    )
    assert diff(tmp_path / "a", tmp_path / "b") == 1
    assert f"they ran with {name} {here}" in capsys.readouterr().out


def test_a_resume_elsewhere_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not an error: bits are promised for the same machine and thread count alone."""
    opened(tmp_path)

    def stop(*_: Any) -> None:
        raise LedgerError(expected="", found="the loop", where="", action="")

    monkeypatch.setattr(commands, "evolve", stop)
    for name in ("", "torch"):
        if name:
            other(name, monkeypatch)
        with pytest.raises(LedgerError, match="the loop"):
            commands.resume(tmp_path, "inprocess", "off", False)
        said = capsys.readouterr().err
        assert ("this evolution ran and goes on with torch" in said) is bool(name)


def test_a_ledger_without_notes_is_compared_without_them(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "old")
    ledger.append("open", {"seed": 0}, {"at": 1.0})
    assert versions.noted(ledger.entries) == {} and versions.changes({}, versions.notes()) == []


def test_the_record_of_a_container_takes_notes_beside_its_clock(tmp_path: Path) -> None:
    records = Records(open_store(str(tmp_path)), "one")
    record = {"outputs": {}, "metrics": {}, "code": "c", "time": {"started": 1.0, **versions.notes()}}
    records.put("key", record)
    assert records.get("key") == record
    records.put("wrong", {**record, "metrics": {"reward": "high"}})
    with pytest.raises(LedgerError, match="metrics"):
        records.get("wrong")
