"""Situations that a chain of runs can be in, for tests that go on from there."""

from __future__ import annotations

from instar.pipelines.chain import submission
from support.chain_world import EVOLUTION, Crash, World, quietly


def only(world: World, name: str) -> str:
    (run,) = world.kfp.named(f"{EVOLUTION}-{name}")
    return str(run["run_id"])


def fail_first(world: World) -> None:
    world.start()
    world.end(only(world, "000000-1"), "FAILED", "out of memory")
    world.now += 10


def opened(world: World) -> None:
    world.start()
    world.step(only(world, "000000-1"))


def stopped(world: World) -> None:
    opened(world)
    submission.stop(world.store, world.api, EVOLUTION, "enough")


def second_attempt(world: World) -> None:
    """Attempt 1 is cut off but lives and holds the fence; attempt 2 was created."""
    opened(world)
    world.kfp.report(only(world, "000000-1"), "FAILED")
    world.tick()


def moved(world: World, at: str = "create_run") -> None:
    """Segment 0 is committed and its run died before it could submit: at the creation, or at the claim (`create`)."""
    opened(world)
    run = only(world, "000000-1")
    error = quietly(lambda: world.advance(run, lambda name, after: crash_on(name, after, at)))
    assert isinstance(error, Crash)
    world.check()


def crash_on(name: str, after: bool, wanted: str) -> None:
    if name == wanted and not after:
        raise Crash(name)


def duplicate(world: World) -> None:
    """Two runs of attempt 1 were created."""
    world.start()
    world.late = True
    twin = dict(world.kfp.runs[only(world, "000000-1")], run_id="twin", state_history=[{"state": "PENDING"}])
    world.kfp.runs["twin"] = twin
