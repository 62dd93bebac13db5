"""Stories of broken chains: whatever breaks, a segment has one run that works and one that moves the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from instar.errors import ConfigError, LedgerError, LockedError
from instar.head import Head
from instar.pipelines.chain import submission
from instar.pipelines.chain.generations import tick_newest
from instar.store import LocalStore, open_store
from support.chain_scenes import moved, only, opened, second_attempt
from support.chain_world import EVOLUTION, World, quietly
from support.fake_kfp import FakeKfp


def test_late_creation_wakes_after_its_successor_and_does_no_work(make: Callable[..., World]) -> None:
    world = make()
    world.late = True
    world.kfp.fault("create_run", "late", "refuse")
    assert quietly(world.start) is not None
    world.now += world.chain.grace_s + 1
    assert world.tick().did == "submitted"
    second = only(world, "000000-2")
    world.step(second)
    world.kfp.release()
    zombie = only(world, "000000-1")
    with pytest.raises(LockedError, match="attempt 1 to be the newest"):
        world.open(zombie)
    world.step(second)
    with pytest.raises(LockedError, match="segment 0 to be next"):
        world.open(zombie)
    world.ended.add(zombie)
    world.finish()


def test_lost_response_is_found_by_name(make: Callable[..., World]) -> None:
    for fault in ("drop", "503 after"):
        world = make()
        world.kfp.fault("create_run", fault)
        assert world.start().did == "adopted"
        only(world, "000000-1")


def test_refused_creation_is_repeated_once_then_left_to_the_tick(make: Callable[..., World]) -> None:
    world = make()
    world.kfp.fault("create_run", "503")
    assert world.start().did == "submitted"
    world = make()
    world.kfp.fault("create_run", "503", "429")
    assert quietly(world.start) is not None
    assert world.kfp.requests.count("create_run") == 2 and not world.kfp.runs
    assert world.tick().reason.startswith("attempt 1 was claimed")
    world.finish()


def test_a_retried_task_finishes_the_submission_it_had_claimed(make: Callable[..., World]) -> None:
    world = make()
    moved(world)
    first = only(world, "000000-1")
    world.advance(first)
    only(world, "000001-1")
    assert world.newest_attempt() == 1, "the retry must not use up an attempt"


def test_a_name_that_was_used_before_is_refused(make: Callable[..., World]) -> None:
    world = make()
    world.start()
    fresh = LocalStore(world.store.root / "fresh", durable=False)
    error = quietly(
        lambda: submission.start(fresh, world.api, Head(evolution=EVOLUTION), world.chain, "cli", world.now)
    )
    assert isinstance(error, ConfigError) and "choose another name" in error.action
    assert fresh.list("") == []


def test_no_evolution_no_action(make: Callable[..., World]) -> None:
    world = make()
    assert world.tick().reason == "no evolution of this name"
    assert submission.submit_current(world.store, world.api, EVOLUTION, "me").did == "nothing"
    assert world.kfp.requests == ["list_experiments", "create_experiment"]


def test_a_schedule_of_an_evolution_that_is_not_there_fails(make: Callable[..., World]) -> None:
    world = make()
    world.start()
    with pytest.raises(LedgerError, match="'ebo'") as refused:
        tick_newest(world.store, world.api, "ebo", True, world.now, "tick")
    assert world.store.uri in refused.value.where
    assert tick_newest(world.store, world.api, EVOLUTION, True, world.now, "tick").did == "nothing"


def submit_as(world: World, owner: str) -> submission.Action:
    return submission.submit_current(world.store, world.api, EVOLUTION, owner, world.now)


def test_a_claim_of_another_that_never_became_a_run_is_taken_over_after_the_grace(make: Callable[..., World]) -> None:
    world = make()
    moved(world)
    world.now += 100
    waiting = submit_as(world, "other")
    assert waiting.did == "nothing"
    assert "claimed 100 s ago" in waiting.reason and "in 800 s the tick" in waiting.reason
    assert world.newest_attempt() == 1
    world.now += 800
    assert submit_as(world, "other").did == "submitted"
    assert submit_as(world, "third").run == only(world, "000001-2")
    world.finish()


def test_a_run_of_another_is_adopted_in_whatever_state(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    run = only(world, "000000-1")
    for state in ("RUNNING", "FAILED"):
        world.kfp.report(run, state)
        world.now += world.chain.grace_s + 1
        action = submit_as(world, "other")
        assert (action.did, action.run) == ("adopted", run) and state in action.reason
    assert world.newest_attempt() == 1 and len(world.kfp.runs) == 1


def test_taking_over_ends_at_the_cap_as_the_tick_does(make: Callable[..., World]) -> None:
    world = make(max_attempts=1)
    moved(world)
    world.now += world.chain.grace_s + 1
    action = submit_as(world, "other")
    assert action.did == "failed" and "never became a run" in action.reason
    assert world.head().status == "failed" and world.newest_attempt() == 1
    world.finish()


def test_failures_end_at_the_cap_and_resume_counts_anew(make: Callable[..., World]) -> None:
    world = make(max_attempts=2)
    world.start()
    for attempt in (1, 2):
        world.end(only(world, f"000000-{attempt}"), "FAILED", "exit code 11")
        action = world.tick()
    assert action.did == "failed" and "exit code 11" in action.reason
    assert world.tick().did == "nothing" and len(world.kfp.runs) == 2
    submission.resume(world.store, world.api, EVOLUTION, "person", world.now)
    only(world, "000000-3")
    for attempt in (3, 4):
        world.end(only(world, f"000000-{attempt}"), "FAILED")
        action = world.tick()
    assert action.did == "failed"
    world.finish()


def test_segments_have_a_hard_cap(make: Callable[..., World]) -> None:
    world = make(segments=9)
    world.chain = world.chain.__class__(**{**vars(world.chain), "max_segments": 1})
    world.start()
    for name in ("000000-1", "000001-1"):
        world.step(only(world, name))
        world.step(only(world, name))
    assert world.head().status == "failed" and "limit of 1" in world.head().reason
    assert len(world.kfp.runs) == 2


def test_deleted_run_is_replaced_after_the_grace(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    world.kfp.runs.clear()
    assert world.tick().did == "nothing"
    world.now += world.chain.grace_s + 1
    assert world.tick().did == "submitted"
    world.finish()


def test_an_unclaimed_run_is_refused(make: Callable[..., World]) -> None:
    world = make()
    world.start()
    clone = dict(world.kfp.runs[only(world, "000000-1")], run_id="clone", display_name="Clone of it")
    clone["runtime_config"] = {"parameters": {"segment": 0, "attempt": 7}}
    world.kfp.runs["clone"] = clone
    with pytest.raises(LockedError, match="a claim for attempt 7"):
        world.open("clone")


def test_on_seaweedfs(kfp: FakeKfp, seaweed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in seaweed.environment().items():
        monkeypatch.setenv(key, value)
    world = World(kfp, open_store("s3://instar-test/chain-faults"))
    second_attempt(world)
    world.open(only(world, "000000-2"))
    world.check()
    with pytest.raises(LockedError):
        world.open(only(world, "000000-1"))
    with pytest.raises(LockedError):
        world.advance(only(world, "000000-1"))
    world.ended.add(only(world, "000000-1"))
    world.finish()


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_verdict_on_a_head_that_has_moved_has_no_effect(make: Callable[..., World], max_attempts: int) -> None:
    """The server called the run failed, yet its process commits while the watchdog is looking."""
    world = make(max_attempts=max_attempts)
    opened(world)
    first = only(world, "000000-1")
    world.kfp.report(first, "FAILED")

    def commit(name: str, after: bool) -> None:
        if (name, after) == ("find_runs", True) and world.head().segment == 0:
            world.advance(first)
            world.check()

    assert world.tick(commit).reason == "the head has moved on"
    assert (world.head().segment, world.head().status) == (1, "running")
    assert [run["display_name"] for run in world.kfp.runs.values()] == ["evo-000000-1", "evo-000001-1"]
