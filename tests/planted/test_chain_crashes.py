"""A crash at every operation of every step, and schedules of everything that can happen to a chain of runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from instar.pipelines.chain import submission
from support.chain_scenes import fail_first, only, opened, stopped
from support.chain_world import EVOLUTION, Crash, CrashAt, World, quietly
from support.fake_kfp_objects import ENDED

HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


SCENES: dict[str, tuple[Callable[[World], object], Callable[[World, Any], object]]] = {
    "start": (lambda world: None, lambda world, tap: world.start(tap)),
    "open": (lambda world: world.start(), lambda world, tap: world.open(only(world, "000000-1"), tap)),
    "advance": (opened, lambda world, tap: world.advance(only(world, "000000-1"), tap)),
    "tick": (fail_first, lambda world, tap: world.tick(tap, owner="tick")),
    "stop": (opened, lambda world, tap: submission.stop(*world.tapped(tap), EVOLUTION, "enough")),
    "resume": (stopped, lambda world, tap: submission.resume(*world.tapped(tap), EVOLUTION, "person", world.now)),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("retried", [True, False], ids=["retried", "abandoned"])
def test_crash_at_every_operation(make: Callable[..., World], scene: str, retried: bool) -> None:
    prepare, act = SCENES[scene]
    number, crashed = -1, True
    while crashed:
        number, crashed = number + 1, False
        for after in (False, True):
            world = make(segments=2)
            prepare(world)
            world.check()
            tap = CrashAt(number, after)
            error = quietly(lambda world=world, tap=tap: act(world, tap))
            crashed |= isinstance(error, Crash)
            world.check(sequential=False)
            if retried:
                act(world, None)
                world.check(sequential=False)
            if scene == "open" and not world.held:
                world.open(only(world, "000000-1"))
                world.check()
            world.finish()
    assert number >= 2, "the scene has too few operations to prove anything"


# --- schedules of everything that can happen ----------------------------------------------------------------------------

NUMBER = st.integers(0, 12)
CRASH = st.none() | st.tuples(NUMBER, st.booleans())
EVENTS = st.one_of(
    st.tuples(st.just("step"), NUMBER, CRASH, st.booleans()),
    st.tuples(st.just("step"), NUMBER, st.none(), st.booleans()),
    st.tuples(st.just("tick"), CRASH),
    st.tuples(st.just("wait")),
    st.tuples(st.just("fail"), NUMBER, st.booleans()),
    st.tuples(st.just("cancel"), NUMBER, st.booleans()),
    st.tuples(st.just("stop"), CRASH),
    st.tuples(st.just("resume"), CRASH),
    st.tuples(st.just("fault"), st.sampled_from(["drop", "refuse", "503", "429", "503 after"])),
    st.tuples(st.just("late")),
    st.tuples(st.just("release")),
)


def happen(world: World, event: tuple[Any, ...]) -> None:
    kind, runs = event[0], list(world.kfp.runs)
    taps = [CrashAt(*item) for item in event if isinstance(item, tuple)]
    tap = taps[0] if taps else None
    if kind == "step" and runs:
        world.step(runs[event[1] % len(runs)], tap, retried=event[3])
    elif kind == "tick":
        quietly(lambda: world.tick(tap))
    elif kind == "wait":
        world.now += 400
    elif kind in ("fail", "cancel") and runs:
        run_id, is_dead = runs[event[1] % len(runs)], event[2]
        if run_id not in world.ended:
            if kind == "fail":
                world.kfp.report(run_id, "FAILED")
            elif world.kfp.runs[run_id]["state"] not in ENDED | {"CANCELING"}:
                world.kfp.cancel(run_id)
            if is_dead:  # otherwise its process lives on, cut off from the cluster
                world.ended.add(run_id)
    elif kind == "stop":
        quietly(lambda: submission.stop(*world.tapped(tap), EVOLUTION, "enough"))
    elif kind == "resume":
        quietly(lambda: submission.resume(*world.tapped(tap), EVOLUTION, f"person-{world.now}", world.now))
        world.now += 1
    elif kind == "fault":
        world.kfp.fault("create_run", event[1])
    elif kind == "late":
        world.late = True
        world.kfp.fault("create_run", "late")
    elif kind == "release":
        world.kfp.release()
    world.check()


@settings(deadline=None, suppress_health_check=HEALTH, max_examples=60)
@given(events=st.lists(EVENTS, min_size=5, max_size=40))
def test_any_schedule_keeps_the_rules_and_ends_in_done(make: Callable[..., World], events: list[Any]) -> None:
    world = make()
    world.start()
    world.check()
    for event in events:
        happen(world, event)
    world.finish()


@settings(deadline=None, suppress_health_check=HEALTH, max_examples=30)
@given(before=st.lists(EVENTS, max_size=12), after=st.lists(EVENTS, min_size=4, max_size=20))
def test_nothing_moves_after_a_cancel(make: Callable[..., World], before: list[Any], after: list[Any]) -> None:
    world = make(max_attempts=50)
    world.start()
    world.check()
    for event in before:
        if event[0] not in ("cancel", "stop", "late"):
            happen(world, event)
    world.kfp.faults.clear()
    for run_id in [*world.kfp.runs, *world.kfp.runs]:
        if not world.is_open(run_id):
            world.step(run_id)
        world.tick()
    head = world.head()
    assume(head.status == "running" and head.run and head.run not in world.ended)
    assume(head.attempt == world.newest_attempt())  # cancelling an old holder does not bind a newer attempt at once
    world.kfp.cancel(head.run)
    world.ended.add(head.run)
    for event in after:
        if event[0] not in ("resume", "cancel"):
            happen(world, event)
        assert world.head().segment == head.segment
    world.kfp.faults.clear()
    world.kfp.release()
    count = len(world.kfp.runs)
    world.now += 10000
    world.tick()
    assert world.head().status == "stopped"
    world.tick()
    assert len(world.kfp.runs) == count
    world.finish()
