"""What a process keeps between stage calls is found by the digest of its artifact, and by nothing else."""

from __future__ import annotations

from pathlib import Path

from instar.artifact import Policy, Tasks
from instar.resident import Kind, Resident

MODEL: Kind[str] = Kind("model")
ENGINE: Kind[str] = Kind("engine")
TABLE: Kind[int] = Kind("table", newest=2)
SERVER: Kind[object] = Kind("server")


def policy(name: str, digest: str = "") -> Policy:
    return Policy(Path(name), digest)


def test_what_is_put_for_an_artifact_is_found_by_its_digest_and_kind() -> None:
    resident = Resident()
    resident.put(MODEL, policy("a", "one"), "first")
    resident.put(MODEL, policy("elsewhere", "one"), "again")
    resident.put(MODEL, policy("b", "two"), "second")
    assert (resident.get(MODEL, "one"), resident.get(MODEL, "two")) == ("again", "second")
    assert resident.get(MODEL, "three") is None and resident.get(ENGINE, "one") is None


def test_an_output_without_a_digest_waits_and_then_takes_the_place_of_older_ones() -> None:
    resident, old, new = Resident(), policy("a", "old"), policy("b")
    resident.put(MODEL, old, "old weights")
    resident.put(ENGINE, old, "old engine")
    resident.put(MODEL, new, "new weights")
    assert resident.get(MODEL, "") is None, "an artifact that nobody has named is nobody's"
    assert resident.waiting(MODEL, new) == "new weights" and resident.get(MODEL, "old") == "old weights"
    resident.adopt(policy("c", "other"))
    assert resident.get(MODEL, "old") == "old weights", "nothing waited for this one"
    new.digest = "new"
    resident.adopt(new)
    assert (resident.get(MODEL, "new"), resident.get(MODEL, "old")) == ("new weights", None)
    assert resident.get(ENGINE, "old") == "old engine" and resident.waiting(MODEL, new) is None


def test_an_artifact_that_moves_takes_along_what_is_kept_for_it() -> None:
    resident, inner, outer = Resident(), policy("scratch/policy", "inner"), policy("outputs/policy")
    resident.put(MODEL, inner, "weights")
    resident.put(MODEL, policy("r", "reference"), "frozen")
    resident.hand_over("inner", outer)
    assert resident.get(MODEL, "inner") is None and resident.get(MODEL, "reference") == "frozen"
    resident.adopt(policy("outputs/policy", "outer"))
    assert resident.get(MODEL, "outer") == "weights"


def test_dropping_a_policy_drops_every_kind_of_it_and_no_server() -> None:
    resident, server = Resident(), object()
    resident.put(SERVER, None, server)
    for kind in (MODEL, ENGINE):
        resident.put(kind, policy("a", "one"), "one")
        resident.put(kind, policy("b", "two"), "two")
    resident.drop("one")
    resident.drop("")
    assert sorted(resident) == [("engine", "two"), ("model", "two"), ("server", "")]
    resident.drop_all(ENGINE)
    assert resident.get(SERVER) is server and resident.take(SERVER) is server
    assert resident.take(SERVER) is None and list(resident) == [("model", "two")]


def test_of_a_kind_with_a_limit_the_one_that_nobody_asked_for_goes() -> None:
    resident = Resident()
    for number, digest in enumerate(("a", "b")):
        resident.put(TABLE, Tasks(Path(digest), digest), number)
    assert resident.get(TABLE, "a") == 0
    resident.put(TABLE, Tasks(Path("c"), "c"), 2)
    assert [resident.get(TABLE, digest) for digest in "abc"] == [0, None, 2]


def test_clearing_forgets_what_waits_too() -> None:
    resident = Resident()
    resident.put(MODEL, policy("a"), "weights")
    resident.put(SERVER, None, object())
    resident.clear()
    assert not list(resident) and resident.waiting(MODEL, policy("a")) is None
