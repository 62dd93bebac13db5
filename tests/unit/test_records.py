"""Records: what a stage left is taken over only when it is what a stage leaves, and its bytes are in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instar.components.catalog import CURRICULUM
from instar.contract import WHOLE
from instar.errors import ArtifactError, LedgerError
from instar.pipelines.ledger_runner import Job
from instar.pipelines.replay import Replay
from instar.records import Records
from instar.store import LocalStore
from instar.workspace import Workspace

DIGEST = "sha256:" + "a" * 64
RECORD: dict[str, Any] = {
    "outputs": {"batch": DIGEST},
    "metrics": {"loss": 0.5, "rows": 3},
    "code": "c",
    "time": {"started": 1.0, "ended": 2},
}
KEY = "0" * 64


def test_a_record_comes_back_and_the_first_one_stands(tmp_path: Path) -> None:
    records = Records(LocalStore(tmp_path), "evo")
    assert records.get(KEY) is None
    assert records.put(KEY, RECORD) == RECORD == records.get(KEY)
    assert records.put(KEY, {**RECORD, "code": "other"}) == RECORD


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outputs", [DIGEST]),
        ("outputs", None),
        ("outputs", {"batch": 5}),
        ("outputs", {"batch": "sha256:" + "A" * 64}),
        ("outputs", {"batch": "sha256:../../x"}),
        ("outputs", {"batch": ""}),
        ("metrics", []),
        ("metrics", {"loss": "0.5"}),
        ("metrics", {"loss": True}),
        ("metrics", {"loss": None}),
        ("metrics", {"loss": float("nan")}),
        ("metrics", {"loss": float("inf")}),
        ("metrics", {"loss": 10**400}),
        ("code", 5),
        ("code", None),
        ("time", 5),
        ("time", {"started": "now"}),
    ],
)
def test_a_field_of_another_type_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    records = Records(store, "evo")
    store.put_bytes(f"{records.prefix}{KEY}.json", json.dumps({**RECORD, field: value}).encode())
    with pytest.raises(LedgerError) as caught:
        records.get(KEY)
    assert caught.value.where.endswith((f"{KEY}.json:{field}", f"{KEY}.json")), (
        "a number that is none is no JSON either"
    )


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'"text"'])
def test_junk_is_refused(data: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_bytes(f"evolutions/evo/records/{KEY}.json", data)
    with pytest.raises(LedgerError, match=KEY):
        Records(store, "evo").get(KEY)


def replay_of(folder: Path, outputs: dict[str, str]) -> tuple[Replay, Job]:
    replay = Replay(Workspace(folder / "work", "evo", str(folder / "store")), commit=True)
    replay.records.put(KEY, {**RECORD, "outputs": outputs})
    job = Job(stage=CURRICULUM, config=None, iteration=1, step=0, shard=WHOLE, inputs={}, key=KEY)
    return replay, job


def stored(folder: Path, replay: Replay, *names: str) -> dict[str, str]:
    out = {}
    for name in names:
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
        out[name] = replay.workspace.cas.put(folder / name, "Batch")
    return out


def outputs_of(tmp_path: Path) -> dict[str, str]:
    """Store one artifact for each output of the stage and return the digests."""
    from instar import contract

    replay = Replay(Workspace(tmp_path / "first", "evo", str(tmp_path / "store")), commit=True)
    return stored(tmp_path, replay, *contract.ports(CURRICULUM.outs))


def test_a_whole_record_is_appended(tmp_path: Path) -> None:
    outputs = outputs_of(tmp_path)
    replay, job = replay_of(tmp_path, outputs)
    assert replay.produce(job).body["outputs"] == outputs
    assert len(replay.workspace.ledger.entries) == 1


def test_outputs_that_are_not_the_ports_are_refused_before_the_ledger(tmp_path: Path) -> None:
    outputs = outputs_of(tmp_path)
    for number, wrong in enumerate(({}, {**outputs, "extra": DIGEST}, {"batsh": DIGEST})):
        (tmp_path / f"{number}").mkdir()
        replay, job = replay_of(tmp_path / f"{number}", wrong)
        with pytest.raises(LedgerError, match="batch") as caught:
            replay.produce(job)
        assert caught.value.where.endswith(f"{KEY}.json") and not replay.workspace.ledger.entries


def test_an_output_that_the_store_lacks_is_refused_before_the_ledger(tmp_path: Path) -> None:
    outputs = outputs_of(tmp_path)
    replay, job = replay_of(tmp_path, {**outputs, "batch": DIGEST})
    with pytest.raises(ArtifactError, match=r"batch sha256:aaaa"):
        replay.produce(job)
    assert not replay.workspace.ledger.entries
