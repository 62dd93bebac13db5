"""Two processes at one chain of runs, operation by operation in any order, and truly in parallel."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.errors import LockedError
from instar.pipelines.chain import submission
from support.chain_scenes import duplicate, fail_first, moved, only, opened, second_attempt, stopped
from support.chain_world import EVOLUTION, World, quietly

HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


class Turns:
    """Lets threads proceed one operation at a time, in the order of a schedule."""

    def __init__(self, actors: list[Callable[[Any], object]]) -> None:
        self.go = [threading.Semaphore(0) for _ in actors]
        self.arrived = [threading.Semaphore(0) for _ in actors]
        self.over = [False] * len(actors)
        self.errors: list[Exception | None] = [None] * len(actors)
        self.threads = [threading.Thread(target=self._live, args=(i, a), daemon=True) for i, a in enumerate(actors)]

    def _live(self, index: int, actor: Callable[[Any], object]) -> None:
        def tap(_: str, after: bool) -> None:
            if not after:
                self.arrived[index].release()
                assert self.go[index].acquire(timeout=30)

        try:
            self.errors[index] = quietly(lambda: actor(tap))
        except Exception as error:  # a mistake of the test itself: the main thread reports it
            self.errors[index] = error
        finally:
            self.over[index] = True
            self.arrived[index].release()

    def play(self, schedule: list[int]) -> None:
        for thread, arrived in zip(self.threads, self.arrived, strict=True):
            thread.start()
            assert arrived.acquire(timeout=30)
        for index in itertools.chain(schedule, itertools.cycle(range(len(self.threads)))):
            if all(self.over):
                break
            if not self.over[index]:
                self.go[index].release()
                assert self.arrived[index].acquire(timeout=30)
        for thread in self.threads:
            thread.join(30)


FIRST = "000000-1"
PAIRS: dict[str, tuple[Callable[[World], object], list[Callable[[World, Any], object]]]] = {
    "two ticks after a failure": (fail_first, [lambda w, t: w.tick(t), lambda w, t: w.tick(t)]),
    "two ticks after a vanished successor": (moved, [lambda w, t: w.tick(t), lambda w, t: w.tick(t)]),
    "tick and the end of a run": (opened, [lambda w, t: w.tick(t), lambda w, t: w.advance(only(w, FIRST), t)]),
    "old attempt commits, new one begins": (
        second_attempt,
        [lambda w, t: w.advance(only(w, FIRST), t), lambda w, t: w.open(only(w, "000000-2"), t)],
    ),
    "duplicates begin": (
        duplicate,
        [lambda w, t: w.open(next(iter(w.kfp.runs)), t), lambda w, t: w.open("twin", t)],
    ),
    "stop and the end of a run": (
        opened,
        [lambda w, t: submission.stop(*w.tapped(t), EVOLUTION, "enough"), lambda w, t: w.advance(only(w, FIRST), t)],
    ),
    "two resumes": (
        stopped,
        [
            lambda w, t: submission.resume(*w.tapped(t), EVOLUTION, "ann", w.now),
            lambda w, t: submission.resume(*w.tapped(t), EVOLUTION, "bob", w.now),
        ],
    ),
    "two starts": (lambda w: None, [lambda w, t: w.start(t), lambda w, t: w.start(t, owner="other")]),
    "resume and tick": (
        stopped,
        [lambda w, t: submission.resume(*w.tapped(t), EVOLUTION, "ann", w.now), lambda w, t: w.tick(t)],
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@settings(deadline=None, suppress_health_check=HEALTH, max_examples=15)
@given(schedule=st.lists(st.integers(0, 1), max_size=30))
def test_every_interleaving_of_two(make: Callable[..., World], pair: str, schedule: list[int]) -> None:
    prepare, actors = PAIRS[pair]
    world = make(segments=2)
    prepare(world)
    world.check()
    turns = Turns([lambda tap, a=a: a(world, tap) for a in actors])
    turns.play(schedule)
    for error in turns.errors:
        assert error is None or isinstance(error, LockedError), error
    world.check(sequential=False)
    if pair == "duplicates begin":
        assert len(world.held[0]) == 1 and turns.errors.count(None) == 1
    if pair.startswith("two"):
        assert turns.errors == [None, None]
        head = world.head()
        claims = len(world.store.list(f"evolutions/{EVOLUTION}/claims/{head.segment:06d}-"))
        if pair == "two resumes" and claims == 3:  # the second came between claim and creation, and voided the claim
            assert head.base == 2 and world.kfp.named(f"{EVOLUTION}-000000-3")
        else:
            assert claims == (1 if pair in ("two starts", "two ticks after a vanished successor") else 2)
    world.finish()


def test_two_ticks_in_parallel_threads_create_one_run(make: Callable[..., World]) -> None:
    for _ in range(20):
        world = make(segments=2)
        fail_first(world)
        barrier = threading.Barrier(4)
        actions: list[Any] = []

        def work(world: World = world, barrier: threading.Barrier = barrier, actions: list[Any] = actions) -> None:
            owner = f"tick-{threading.get_ident()}"
            barrier.wait(30)
            actions.append(world.tick(owner=owner))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(a.did for a in actions) == ["nothing"] * 3 + ["submitted"]
        only(world, "000000-2")
