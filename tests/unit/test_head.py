"""The head, its claims and the fence, on a local store; and the watchdog's verdicts as a table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import config as configs
from instar.errors import ArtifactError, ConfigError, LedgerError, LockedError, UnavailableError
from instar.fence import advance_head, check_held, hold
from instar.head import (
    ChainConfig,
    Claim,
    Head,
    change,
    claim,
    create_chain,
    create_head,
    latest_claim,
    move,
    path,
    read_chain,
    read_head,
    run_name,
)
from instar.kfp.api import RunInfo, Version
from instar.pipelines.chain.tick import judge
from instar.store import LocalStore

HEAD = Head(evolution="evo", ledger="0" * 64)
CHAIN = ChainConfig(
    experiment="experiment-1",
    pipelines={"begin": Version(pipeline_id="p", version_id="v")},
    service_account="instar-submitter",
    pipeline_root="s3://bucket/root",
    store="s3://bucket",
    max_segments=9,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path, durable=False)


def current(store: LocalStore) -> Head:
    found = read_head(store, "evo")
    assert found is not None
    return found[0]


def begun(store: LocalStore, attempts: int = 1) -> LocalStore:
    create_head(store, HEAD)
    for attempt in range(1, attempts + 1):
        assert claim(store, "evo", 0, attempt, "me", 5.0)
    return store


def test_objects_are_canonical_json_below_the_evolution(store: LocalStore) -> None:
    begun(store)
    create_chain(store, "evo", CHAIN)
    assert store.list("") == [
        "evolutions/evo/chain.json",
        "evolutions/evo/claims/000000-001.json",
        "evolutions/evo/head.json",
    ]
    raw = store.read("evolutions/evo/head.json")
    assert raw == json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":")).encode()
    assert json.loads(store.read("evolutions/evo/claims/000000-001.json")) == {
        "segment": 0,
        "attempt": 1,
        "owner": "me",
        "at": 5.0,
        "run_name": "evo-000000-1",
    }


def test_the_first_head_is_written_once_and_absence_is_none(store: LocalStore) -> None:
    assert read_head(store, "evo") is None and latest_claim(store, "evo", 0) is None
    assert create_head(store, HEAD)
    assert not create_head(store, replace(HEAD, segment=7))
    assert current(store) == HEAD


def test_a_tag_is_good_for_one_move(store: LocalStore) -> None:
    create_head(store, HEAD)
    found = read_head(store, "evo")
    assert found is not None
    assert move(store, "evo", found[1], replace(HEAD, revision=1))
    assert not move(store, "evo", found[1], replace(HEAD, revision=2, status="done"))
    assert current(store).status == "running"


def test_change_decides_again_when_somebody_was_faster(store: LocalStore) -> None:
    create_head(store, HEAD)
    seen: list[int] = []

    def decide(head: Head) -> Head:
        seen.append(head.step)
        if len(seen) < 4:
            change(store, "evo", lambda h: replace(h, step=h.step + 10))
        return replace(head, step=head.step + 1)

    assert change(store, "evo", decide).step == 31
    assert seen == [0, 10, 20, 30]
    assert current(store).revision == 4


def test_change_gives_up_when_the_head_never_rests(store: LocalStore) -> None:
    create_head(store, HEAD)

    def decide(head: Head) -> Head:
        change(store, "evo", lambda h: replace(h, step=h.step + 1))
        return replace(head, reason="mine")

    with pytest.raises(UnavailableError, match="others changed it first"):
        change(store, "evo", decide)
    assert current(store).reason == ""


def test_change_without_a_head_says_so(store: LocalStore) -> None:
    with pytest.raises(LedgerError, match="the head of evolution 'evo'"):
        change(store, "evo", lambda head: None)


def test_a_torn_or_foreign_head_is_refused(store: LocalStore) -> None:
    store.put_bytes(path("evo", "head"), b'{"evolution": "evo", "seg')
    with pytest.raises(ArtifactError, match="a Head in JSON"):
        read_head(store, "evo")
    store.put_bytes(path("evo", "head"), b'{"evolution": "evo", "segmnt": 3}')
    with pytest.raises(ConfigError, match="segment"):
        read_head(store, "evo")
    store.put_bytes(path("evo", "head"), b'{"evolution": "evo", "status": "paused"}')
    with pytest.raises(ConfigError, match="running"):
        read_head(store, "evo")


def test_a_head_of_another_evolution_is_neither_read_nor_written(store: LocalStore) -> None:
    create_head(store, HEAD)
    store.put_bytes(path("other", "head"), store.read(path("evo", "head")))
    with pytest.raises(LedgerError, match="the head of evolution 'other'; found that of 'evo'"):
        read_head(store, "other")
    with pytest.raises(LedgerError, match="found that of 'evo'"):
        change(store, "other", lambda head: replace(head, status="stopped"))
    with pytest.raises(LedgerError, match="to write; found that of 'other'"):
        change(store, "evo", lambda head: replace(head, evolution="other"))
    assert current(store) == HEAD


@pytest.mark.parametrize("name", ["segment", "iteration", "step", "attempt", "base", "revision"])
def test_a_head_does_not_count_below_zero(store: LocalStore, name: str) -> None:
    store.put_bytes(path("evo", "head"), json.dumps({"evolution": "evo", name: -1}).encode())
    with pytest.raises(LedgerError, match=f"'{name}' to be at least 0; found -1; at evolutions/evo/head.json"):
        read_head(store, "evo")


@pytest.mark.parametrize(
    ("copy", "found"),
    [
        ("evolutions/evo/claims/000003-001.json", "evolutions/evo/claims/000002-001.json"),
        ("evolutions/evo/claims/000002-007.json", "evolutions/evo/claims/000002-001.json"),
        ("evolutions/other/claims/000002-001.json", "evo-000002-1"),
    ],
)
def test_a_claim_under_another_name_is_refused(store: LocalStore, copy: str, found: str) -> None:
    claim(store, "evo", 2, 1, "ann", 1.0)
    store.put_bytes(copy, store.read("evolutions/evo/claims/000002-001.json"))
    _, evolution, _, name = copy.split("/")
    with pytest.raises(LedgerError, match=found) as refused:
        latest_claim(store, evolution, int(name[:6]))
    assert refused.value.where == copy


def test_chain_settings_are_fixed(store: LocalStore) -> None:
    assert create_chain(store, "evo", CHAIN)
    assert not create_chain(store, "evo", CHAIN)
    with pytest.raises(ConfigError, match="settings that this evolution was started with"):
        create_chain(store, "evo", replace(CHAIN, max_attempts=99))
    assert read_chain(store, "evo") == CHAIN


@given(
    head=st.builds(
        Head,
        evolution=st.just("evo"),
        segment=st.integers(0, 10**6),
        kind=st.sampled_from(["begin", "iterate", "finish"]),
        status=st.sampled_from(["running", "stopped", "done", "failed"]),
        reason=st.text(),
        ledger=st.text("0123456789abcdef", max_size=64),
        attempt=st.integers(0, 999),
    )
)
def test_a_head_survives_its_text(head: Head) -> None:
    assert configs.from_dict(Head, json.loads(configs.dumps(head))) == head


def test_an_attempt_is_claimed_once_and_the_newest_is_found(store: LocalStore) -> None:
    first = claim(store, "evo", 2, 9, "ann", 1.0)
    assert first == Claim(segment=2, attempt=9, owner="ann", at=1.0, run_name="evo-000002-9")
    assert claim(store, "evo", 2, 9, "bob", 2.0) is None
    for attempt in (10, 1000, 999):
        claim(store, "evo", 2, attempt, "bob", 3.0)
    claim(store, "evo", 20, 5000, "bob", 3.0)
    newest = latest_claim(store, "evo", 2)
    assert newest is not None and newest.attempt == 1000


# --- the fence ----------------------------------------------------------------------------------------------------------


def test_the_holder_may_ask_again_and_a_newer_attempt_takes_over(store: LocalStore) -> None:
    begun(store, attempts=2)
    assert hold(store, "evo", 0, 1, "a").run == "a"
    assert hold(store, "evo", 0, 1, "a").revision == 1
    assert hold(store, "evo", 0, 2, "b").attempt == 2
    with pytest.raises(LockedError, match="attempt 2 by run b"):
        hold(store, "evo", 0, 1, "a")


@pytest.mark.parametrize(
    ("changes", "segment", "attempt", "run_id", "message"),
    [
        ({"run": "b", "attempt": 1}, 0, 1, "a", "attempt 1 by run b"),
        ({"run": "b", "attempt": 2}, 0, 1, "a", "attempt 2 by run b"),
        ({"attempt": 1, "base": 1}, 0, 1, "a", "no holder after attempt 1"),
        ({"segment": 1}, 0, 1, "a", "segment 1, running"),
        ({"status": "stopped"}, 0, 1, "a", "segment 0, stopped"),
        ({"status": "done", "run": "a", "attempt": 1}, 0, 1, "a", "segment 0, done"),
        ({}, 0, 2, "a", "a claim for attempt 2"),
        ({}, 0, 1, "", "attempt 1 to be the newest"),
    ],
)
def test_the_fence_refuses(
    store: LocalStore, changes: dict[str, Any], segment: int, attempt: int, run_id: str, message: str
) -> None:
    begun(store)
    change(store, "evo", lambda head: replace(head, **changes))
    before = current(store)
    with pytest.raises(LockedError, match=message) as refused:
        hold(store, "evo", segment, attempt, run_id)
    assert refused.value.exit_code == 14 and refused.value.where == "evolutions/evo/head.json"
    assert current(store) == before


def test_advance_moves_once_and_says_when_it_had(store: LocalStore) -> None:
    begun(store)
    hold(store, "evo", 0, 1, "a")
    following = Head(evolution="evo", segment=1, kind="iterate", iteration=0, ledger="f" * 64)
    assert advance_head(store, "evo", "a", following) is True
    assert advance_head(store, "evo", "a", following) is False
    assert current(store) == replace(following, by="a", revision=2)
    assert check_held(store, "evo", "a").segment == 1


def test_advance_clears_what_belonged_to_the_segment(store: LocalStore) -> None:
    begun(store)
    hold(store, "evo", 0, 1, "a")
    change(store, "evo", lambda head: replace(head, base=0))
    advance_head(store, "evo", "a", Head(evolution="evo", segment=1, run="x", attempt=4, base=3, by="x"))
    head = current(store)
    assert (head.run, head.attempt, head.base, head.by) == ("", 0, 0, "a")


@pytest.mark.parametrize("run_id", ["b", ""])
def test_only_the_holder_commits(store: LocalStore, run_id: str) -> None:
    begun(store)
    for message in ("no holder after attempt 0", "attempt 1 by run a"):
        with pytest.raises(LockedError, match=message):
            check_held(store, "evo", run_id)
        with pytest.raises(LockedError, match=message):
            advance_head(store, "evo", run_id, Head(evolution="evo", segment=1))
        hold(store, "evo", 0, 1, "a")
    assert current(store).segment == 0


def test_a_stopped_evolution_takes_no_commit(store: LocalStore) -> None:
    begun(store)
    hold(store, "evo", 0, 1, "a")
    change(store, "evo", lambda head: replace(head, status="stopped", reason="enough"))
    with pytest.raises(LockedError, match="stopped: enough"):
        check_held(store, "evo", "a")
    with pytest.raises(LockedError, match="stopped: enough"):
        advance_head(store, "evo", "a", Head(evolution="evo", segment=1))


@pytest.mark.parametrize("following", [Head(evolution="evo", segment=2), Head(evolution="other", segment=1)])
def test_a_head_that_does_not_follow_is_refused(store: LocalStore, following: Head) -> None:
    begun(store)
    hold(store, "evo", 0, 1, "a")
    with pytest.raises(LedgerError, match="after segment 0"):
        advance_head(store, "evo", "a", following)


# --- the watchdog's verdict ---------------------------------------------------------------------------------------------


def runs(*states: str) -> list[RunInfo]:
    """Runs by state; `FAILED by order` was terminated."""
    name = run_name("evo", 0, 1)
    made = enumerate(s.removesuffix(" by order") for s in states)
    return [RunInfo(run_id=f"r{n}", name=name, state=s, cancelled=states[n] != s or s == "CANCELING") for n, s in made]


@pytest.mark.parametrize(
    ("holder", "states", "age", "what", "reason"),
    [
        ("", [], 10, "wait", "claimed 10 s ago"),
        ("", [], 901, "again", "never became a run"),
        ("", [], -10, "wait", "claimed -10 s ago"),
        ("", [], -5000, "again", "never became a run"),
        ("", [""], 9999, "wait", "r0 is new"),
        ("", ["PENDING"], 9999, "wait", "PENDING"),
        ("r0", ["RUNNING"], 9999, "wait", "RUNNING"),
        ("r0", ["PAUSED"], 9999, "wait", "PAUSED"),
        ("r0", ["CANCELING"], 9999, "stop", "r0 was cancelled"),
        ("r0", ["FAILED by order"], 1, "stop", "r0 was cancelled"),
        ("r0", ["RUNNING", "FAILED by order"], 1, "stop", "r1 was cancelled"),
        ("r0", ["FAILED"], 1, "again", "r0 is FAILED"),
        ("", ["SKIPPED"], 1, "again", "r0 is SKIPPED"),
        ("r0", ["SUCCEEDED"], 1, "again", "r0 is SUCCEEDED"),
        ("r1", ["FAILED", "RUNNING"], 1, "wait", "r1 is RUNNING"),
        ("r1", ["RUNNING", "FAILED"], 1, "again", "r1 is FAILED"),
        ("elsewhere", ["FAILED", "PENDING"], 1, "wait", "r1 is PENDING"),
    ],
)
def test_verdicts(holder: str, states: list[str], age: float, what: str, reason: str) -> None:
    latest = Claim(segment=0, attempt=1, owner="me", at=1000.0, run_name=run_name("evo", 0, 1))
    verdict = judge(replace(HEAD, run=holder), latest, runs(*states), 1000.0 + age, 900.0)
    assert verdict.what == what and reason in verdict.reason
