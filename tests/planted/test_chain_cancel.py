"""A person stops, cancels and resumes a chain of runs: no machine overrules it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from instar import head as heads
from instar.errors import ConfigError, LockedError
from instar.pipelines.chain import submission
from support.chain_scenes import crash_on, moved, only, opened, stopped
from support.chain_world import EVOLUTION, Crash, World, quietly


def test_stop_can_be_repeated_until_the_server_answers(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    first = only(world, "000000-1")
    world.kfp.fault("terminate_run", "503")
    assert quietly(lambda: submission.stop(world.store, world.api, EVOLUTION, "enough")) is not None
    assert world.head().status == "stopped" and world.kfp.runs[first]["state"] == "RUNNING"
    submission.stop(world.store, world.api, EVOLUTION, "again")
    assert world.kfp.is_cancelled(first) and world.head().reason == "enough"


def test_done_is_done(make: Callable[..., World]) -> None:
    world = make(segments=1)
    world.start()
    world.finish()
    assert world.tick().did == "nothing"
    assert submission.stop(world.store, world.api, EVOLUTION, "late").reason == "done: "
    with pytest.raises(ConfigError, match="stopped or failed"):
        submission.resume(world.store, world.api, EVOLUTION, "person", world.now)
    assert len(world.kfp.runs) == 1


@pytest.mark.parametrize("started", [False, True])
def test_a_terminated_run_ends_as_failed_and_is_not_begun_again(make: Callable[..., World], started: bool) -> None:
    """The server never says CANCELED. Of a run with pods the history shows it, of one without only the workflow."""
    world = make()
    world.start()
    run = only(world, "000000-1")
    if started:
        world.step(run)
    world.kfp.cancel(run)
    raw = world.kfp.runs[run]
    assert raw["state"] == "FAILED"
    assert ("CANCELING" in [entry["state"] for entry in raw["state_history"]]) is started
    for _ in range(4):
        world.now += world.chain.grace_s + 1
        world.tick()
    assert world.head().status == "stopped" and world.head().reason == f"run {run} was cancelled"
    assert list(world.kfp.runs) == [run]
    resume_as(world, "person")
    assert world.head().status == "running" and only(world, "000000-2")
    world.finish()


def test_a_run_that_a_person_retried_is_judged_by_its_new_end(make: Callable[..., World]) -> None:
    """Terminate, then Retry in the UI: the second order counts, and the failure after it is a failure."""
    world = make()
    opened(world)
    run = only(world, "000000-1")
    world.kfp.cancel(run)
    world.kfp.retry(run)
    assert world.tick().reason == f"run {run} is RUNNING"
    world.kfp.report(run, "FAILED", "main: Error (exit code 11)")
    world.ended.add(run)
    assert world.tick().did == "submitted"
    only(world, "000000-2")


def test_a_report_from_before_a_terminate_does_not_hide_it(make: Callable[..., World]) -> None:
    """The agent sends what it read before: for a moment the run is RUNNING again, and its last task submits a successor."""
    world = make()
    opened(world)
    run = only(world, "000000-1")
    world.kfp.slow_cancel = True
    world.kfp.cancel(run)
    world.kfp.report(run, "RUNNING", before_terminate=True)
    world.advance(run)
    only(world, "000001-1")
    world.kfp.report(run, "FAILED")
    assert world.tick().reason == f"run {run} was cancelled"
    assert world.head().status == "stopped" and world.kfp.is_cancelled(only(world, "000001-1"))


def test_a_failed_run_says_why(make: Callable[..., World]) -> None:
    """The server's own field is always empty; the reason of the last attempt ends up in the head."""
    world = make(max_attempts=1)
    opened(world)
    run = only(world, "000000-1")
    world.kfp.report(run, "FAILED", "main: Error (exit code 11): ArtifactError: bytes are missing")
    assert world.tick().did == "failed"
    expected = (
        f"1 attempts at segment 0: run {run} is FAILED root.update.executor: main: Error (exit code 11): ArtifactError"
    )
    assert world.head().reason.startswith(expected)


def test_cancel_between_commit_and_submit_is_respected(make: Callable[..., World]) -> None:
    world = make()
    moved(world)
    world.kfp.cancel(only(world, "000000-1"))
    world.now += world.chain.grace_s + 1
    assert world.tick().did == "stopped"
    assert world.head().segment == 1 and len(world.kfp.runs) == 1
    world.finish()


def test_cancel_of_the_committing_run_stops_its_successor_too(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    first = only(world, "000000-1")
    world.kfp.slow_cancel = True
    world.kfp.cancel(first)
    assert world.kfp.runs[first]["state"] == "CANCELING"
    world.advance(first)
    assert world.head().status == "stopped" and len(world.kfp.runs) == 1
    world.check()
    submission.resume(world.store, world.api, EVOLUTION, "person", world.now)
    assert world.head().status == "running"
    only(world, "000001-1")
    assert world.tick().did == "nothing", "an old cancel must not stop what a person resumed"


def test_stop_terminates_and_a_stopped_run_cannot_commit(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    first = only(world, "000000-1")
    assert submission.stop(world.store, world.api, EVOLUTION, "enough").did == "stopped"
    assert world.kfp.runs[first]["state"] == "FAILED" and world.kfp.is_cancelled(first)
    with pytest.raises(LockedError, match="stopped: enough"):
        world.advance(first)
    world.now += 10 * world.chain.grace_s
    assert world.tick().did == "nothing" and len(world.kfp.runs) == 1
    submission.resume(world.store, world.api, EVOLUTION, "person", world.now)
    with pytest.raises(LockedError, match="no holder after attempt 1"):
        world.advance(first)
    with pytest.raises(LockedError, match="no holder after attempt 1"):
        world.open(first)


@pytest.mark.parametrize(("at", "resumed"), [("create_run", "000001-2"), ("create", "000001-1")])
def test_a_cancel_that_a_person_has_answered_meanwhile_does_not_stop_again(
    make: Callable[..., World], at: str, resumed: str
) -> None:
    world = make()
    moved(world, at)
    world.kfp.cancel(only(world, "000000-1"))

    def answer(name: str, after: bool) -> None:
        if (name, after) == ("get_run", True):
            submission.stop(world.store, world.api, EVOLUTION, "looking into it")
            submission.resume(world.store, world.api, EVOLUTION, "person", world.now)

    world.end(only(world, "000000-1"), "FAILED")
    world.now += world.chain.grace_s + 1
    assert world.tick(answer).reason == "the head has moved on"
    assert world.head().status == "running"
    assert world.kfp.runs[only(world, resumed)]["state"] == "PENDING", "the resumed run was terminated"
    world.finish()


def test_a_resume_that_crashed_before_its_claim_is_carried_on(make: Callable[..., World]) -> None:
    world = make()
    stopped(world)
    tap = partial(crash_on, wanted="create")
    assert isinstance(quietly(lambda: submission.resume(*world.tapped(tap), EVOLUTION, "person", world.now)), Crash)
    assert world.tick().did == "submitted"
    only(world, "000000-2")


def test_cancel_of_a_working_late_run_stops_its_pending_successor(make: Callable[..., World]) -> None:
    world = make()
    world.late = True
    world.kfp.fault("create_run", "late", "refuse")
    quietly(world.start)
    world.now += world.chain.grace_s + 1
    world.tick()
    world.kfp.release()
    late = only(world, "000000-1")
    world.open(late)
    world.kfp.cancel(late)
    assert world.tick().did == "stopped"
    assert world.kfp.is_cancelled(only(world, "000000-2"))


def resume_as(world: World, owner: str) -> submission.Action:
    return submission.resume(world.store, world.api, EVOLUTION, owner, world.now)


def test_a_person_need_not_wait_for_a_claim_without_a_run(make: Callable[..., World]) -> None:
    world = make(max_attempts=1)
    moved(world)
    assert resume_as(world, "person").did == "submitted"
    assert (world.head().attempt, world.head().base) == (1, 1)
    run = only(world, "000001-2")
    assert resume_as(world, "person").run == resume_as(world, "other").run == run, "one resume is enough"
    world.check()
    world.finish()


def test_a_resume_leaves_a_running_evolution_with_a_run_as_it_is(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    before, run = world.head(), only(world, "000000-1")
    assert resume_as(world, "person").run == run and world.head() == before
    heads.claim(world.store, EVOLUTION, 0, 2, "tick-dead", world.now)
    assert resume_as(world, "person").run == run, "the holder of the fence works: nothing is voided"
    assert world.head() == before and len(world.kfp.runs) == 1
    world.finish()


def test_a_resume_that_crashed_after_its_claim_is_carried_on_by_its_owner(make: Callable[..., World]) -> None:
    world = make()
    moved(world)
    tap = partial(crash_on, wanted="create_run")
    assert isinstance(quietly(lambda: submission.resume(*world.tapped(tap), EVOLUTION, "person", world.now)), Crash)
    assert resume_as(world, "person").did == "submitted"
    only(world, "000001-2")
    assert world.newest_attempt() == 2


def test_taking_over_does_not_overrule_a_cancel(make: Callable[..., World]) -> None:
    world = make()
    opened(world)
    world.kfp.cancel(only(world, "000000-1"))
    heads.claim(world.store, EVOLUTION, 0, 2, "tick-dead", world.now)
    world.now += world.chain.grace_s + 1
    assert submission.submit_current(world.store, world.api, EVOLUTION, "other", world.now).did == "stopped"
    assert world.newest_attempt() == 2 and len(world.kfp.runs) == 1
