"""A chain of runs in small: a real store, a real client over HTTP, and runs whose tasks are executed on demand.

Every change of the head that the world sees is checked at once against the rules of the chain; `finish` takes the chain
to its end as an undisturbed cluster would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from instar import fence
from instar import head as heads
from instar.errors import InstarError, LockedError, UnavailableError
from instar.head import ChainConfig, Head
from instar.kfp.api import Version
from instar.kfp.client import KfpClient
from instar.kfp.http import KfpOptions
from instar.pipelines.chain import submission
from instar.pipelines.chain.tick import tick
from support.fake_kfp import FakeKfp
from support.fake_kfp_objects import ENDED

EVOLUTION = "evo"
FAST = KfpOptions(connect_timeout_s=2.0, read_timeout_s=5.0, deadline_s=0.0, backoff_s=0.01)


class Crash(Exception):
    """The process dies here."""


class Tapped:
    """A store or an API whose every method call first and last asks `tap`, which may raise or wait."""

    def __init__(self, target: Any, tap: Callable[[str, bool], None]) -> None:
        self._target, self._tap = target, tap

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def call(*args: Any, **keywords: Any) -> Any:
            self._tap(name, False)
            out = value(*args, **keywords)
            self._tap(name, True)
            return out

        return call


class CrashAt:
    """Raise `Crash` at the n-th operation, counted from 0, before or after its effect."""

    def __init__(self, number: int, after: bool) -> None:
        self.number, self.after, self.seen = number, after, 0

    def __call__(self, name: str, after: bool) -> None:
        if after != self.after:
            return
        self.seen += 1
        if self.seen == self.number + 1:
            raise Crash(name)


class World:
    """One evolution of `segments` segments on a fake cluster."""

    def __init__(self, kfp: FakeKfp, store: Any, segments: int = 3, max_attempts: int = 3) -> None:
        self.kfp, self.store, self.segments, self.now, self.owners = kfp, store, segments, 1000.0, 0
        kfp.reset()
        self.api = KfpClient(kfp.url, options=FAST)
        pipeline, version = kfp.add_version()
        ids = Version(pipeline_id=pipeline, version_id=version)
        self.chain = ChainConfig(
            experiment=self.api.ensure_experiment("evolution"),
            pipelines={"begin": ids, "iterate": ids, "finish": ids},
            service_account="instar-submitter",
            pipeline_root="s3://bucket/root",
            store="s3://bucket",
            max_segments=segments,
            max_attempts=max_attempts,
        )
        self.ended: set[str] = set()  # runs without a living process, whatever the server says
        self.held: dict[int, list[str]] = {}
        self.moved: dict[int, list[str]] = {}
        self.late = False  # a creation was held back: two runs of one name are possible
        self.last: Head | None = None

    def start(self, tap: Callable[[str, bool], None] | None = None, owner: str = "cli") -> submission.Action:
        """Submit the evolution."""
        store, api = self.tapped(tap)
        return submission.start(store, api, Head(evolution=EVOLUTION), self.chain, owner, self.now)

    def tick(self, tap: Callable[[str, bool], None] | None = None, owner: str = "") -> submission.Action:
        """Run the watchdog once."""
        self.owners += 1
        store, api = self.tapped(tap)
        return tick(store, api, EVOLUTION, self.now, owner or f"tick-{self.owners}")

    def open(self, run_id: str, tap: Callable[[str, bool], None] | None = None) -> None:
        """Execute the first task of a run."""
        segment, attempt = self.place(run_id)
        head = fence.hold(self.tapped(tap)[0], EVOLUTION, segment, attempt, run_id)
        assert (head.run, head.segment) == (run_id, segment)
        self.held.setdefault(segment, []).append(run_id)

    def advance(self, run_id: str, tap: Callable[[str, bool], None] | None = None) -> None:
        """Execute the last task of a run."""
        store, api = self.tapped(tap)
        done = self.place(run_id)[0] + 1
        following = Head(
            evolution=EVOLUTION,
            segment=done,
            kind="finish" if done == self.segments - 1 else "iterate",
            iteration=done,
            status="done" if done == self.segments else "running",
        )
        fence.advance_head(store, EVOLUTION, run_id, following)
        submission.submit_current(store, api, EVOLUTION, run_id, self.now)

    def place(self, run_id: str) -> tuple[int, int]:
        """Return segment and attempt, from the parameters the run was created with."""
        parameters = self.kfp.runs[run_id]["runtime_config"]["parameters"]
        return parameters["segment"], parameters["attempt"]

    def is_open(self, run_id: str) -> bool:
        """Return whether the run has passed the fence once."""
        return run_id in self.held.get(self.place(run_id)[0], [])

    def step(self, run_id: str, tap: Callable[[str, bool], None] | None = None, retried: bool = True) -> None:
        """Execute the next task of a living run and report its end to the server, as pods do."""
        if run_id in self.ended:
            return
        is_last = self.is_open(run_id)
        try:
            (self.advance if is_last else self.open)(run_id, tap)
        except LockedError as error:
            self.end(run_id, "FAILED", str(error))
        except (Crash, UnavailableError) as error:
            if not retried:
                self.end(run_id, "FAILED", repr(error))
        else:
            if is_last:
                self.end(run_id, "SUCCEEDED")
            elif self.kfp.runs[run_id]["state"] == "PENDING":
                self.kfp.report(run_id, "RUNNING")
        self.check()

    def end(self, run_id: str, state: str, error: str = "") -> None:
        """End the process of a run; the server learns of it unless it has an end on record."""
        self.ended.add(run_id)
        if self.kfp.runs[run_id]["state"] not in ENDED:
            self.kfp.report(run_id, state, error)

    def head(self) -> Head:
        """Return the head."""
        found = heads.read_head(self.store, EVOLUTION)
        assert found is not None
        return found[0]

    def newest_attempt(self) -> int:
        """Return the newest attempt that was claimed at the head's segment."""
        claim = heads.latest_claim(self.store, EVOLUTION, self.head().segment)
        return claim.attempt if claim else 0

    def check(self, *, sequential: bool = True) -> None:
        """Assert the rules that hold at every moment. Not `sequential`: several changes since the last check."""
        found = heads.read_head(self.store, EVOLUTION)
        if found is None:
            return
        head, before = found[0], self.last
        if before is not None and head.segment != before.segment:
            assert head.segment == before.segment + 1, "a segment was skipped or repeated"
            assert before.status == "running", "the head moved while the evolution was not running"
            allowed = [before.run] if sequential else self.held[before.segment]
            assert head.by in allowed and head.by, "moved by a run without the fence"
            self.moved.setdefault(before.segment, []).append(head.by)
        if before is not None and head != before:
            assert head.revision > before.revision
        if before is not None and before.status != "running" and head.status == before.status:
            assert head.run == before.run, "the fence was granted while the evolution was not running"
        names = Counter(run["display_name"] for run in self.kfp.runs.values())
        assert self.late or max(names.values(), default=1) == 1, f"created twice: {names}"
        for name in self.store.list(f"evolutions/{EVOLUTION}/claims/{head.segment:06d}-"):
            assert int(name[-8:-5]) <= head.base + self.chain.max_attempts
        self.last = head

    def finish(self) -> None:
        """Undisturbed from here on: ticks go on, runs proceed, a person resumes what is stopped. It must end in done."""
        self.kfp.faults.clear()
        self.kfp.release()
        for _ in range(12 * self.segments):
            if heads.read_head(self.store, EVOLUTION) is None:
                self.start()
            if self.head().status in ("stopped", "failed"):
                submission.resume(self.store, self.api, EVOLUTION, f"person-{self.now}", self.now)
                self.check()
            if self.head().status == "done":
                break
            self.now += self.chain.grace_s + 1
            self.tick()
            self.check()
            for run_id in list(self.kfp.runs):
                if self.kfp.runs[run_id]["state"] in ENDED:
                    self.ended.add(run_id)
                self.step(run_id)
                self.step(run_id)
        assert self.head().status == "done", self.head()
        assert self.head().segment == self.segments
        assert {s: len(r) for s, r in self.moved.items()} == dict.fromkeys(range(self.segments), 1)

    def tapped(self, tap: Callable[[str, bool], None] | None) -> tuple[Any, Any]:
        """Return store and API, tapped or not."""
        return (Tapped(self.store, tap), Tapped(self.api, tap)) if tap else (self.store, self.api)


def quietly(action: Callable[[], object]) -> InstarError | Crash | None:
    """Call and return the error that ended the call, or None."""
    try:
        action()
    except (InstarError, Crash) as error:
        return error
    return None
