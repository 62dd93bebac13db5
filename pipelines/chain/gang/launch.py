"""Runs one job of the cluster from a task of a pipeline. It creates or adopts the job, waits for its end, and leaves nothing
running.

Each rule prevents a leak that launchers are known for.
- The name of a job says what it produces, so a second launcher adopts the job of the first.
- A dropped connection does not end the wait.
- SIGTERM suspends and deletes the job.
- A failed job becomes an error of the class that its pods ended with.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from instar import terminal
from instar.errors import StalledError, UnavailableError
from instar.pipelines.chain.gang import ends
from instar.pipelines.chain.gang.adopt import adopt, remove
from instar.pipelines.chain.gang.api import GangApi, Object

BACKOFF_S, BACKOFF_CAP_S = 0.5, 30.0
CLEANUP_S = 15.0
"""Seconds for suspending and deleting the job after a signal. They are fewer than the grace period of `instar supervise`."""


@dataclass(frozen=True, kw_only=True)
class _Gang:
    """A job that this launcher runs. All that the launcher waits for comes into `inbox`: states, errors, numbers of signals."""

    api: GangApi
    manifest: Object
    deadline: float
    inbox: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    ended: threading.Event = field(default_factory=threading.Event)


class _Signalled(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_gang(
    api: GangApi, manifest: Object, *, deadline_s: float, poll_s: float = 60.0, beat: Callable[[], None] = lambda: None
) -> None:
    """Return when the job of `manifest` has succeeded. Call it in the main thread: it handles SIGTERM and SIGINT.

    `deadline_s` bounds the wait, including the time in the queue. When it passes, the job is deleted and `StalledError` is raised.
    After `poll_s` seconds without any event the state is read again. `beat` is called at each sign of life.
    If somebody else deletes the job, `UnavailableError` is raised. A signal ends the process with the exit code 128 + its number.
    """
    gang = _Gang(api=api, manifest=manifest, deadline=time.monotonic() + deadline_s)
    with _signals(gang.inbox):
        try:
            uid = _settle(gang)
            beat()
            threading.Thread(target=_follow, args=(gang, poll_s), daemon=True).start()
            _wait(gang, uid, beat)
        except _Signalled as caught:
            _clean_up(gang, f"signal {caught.number}")
            raise SystemExit(128 + caught.number) from None
        finally:
            gang.ended.set()


def _settle(gang: _Gang) -> str:
    """Create the job, or adopt the job that has its name, and return its UID. Try again until the deadline if no server answers."""
    pause = BACKOFF_S
    while True:
        try:
            job = gang.api.create(gang.manifest)
            uid = job["metadata"]["uid"] if job is not None else adopt(gang.api, gang.manifest)
            if uid:
                return str(uid)
        except UnavailableError as error:
            _say(f"{error}; trying again")
        _take(gang, pause)
        pause = min(2 * pause, BACKOFF_CAP_S)


def _follow(gang: _Gang, poll_s: float) -> None:
    """Put every state of the job into the inbox until the job has ended. It runs in a thread of its own, because reading blocks."""
    pause = 0.0
    while not gang.ended.wait(pause):
        started = time.monotonic()
        try:
            for state in gang.api.watch(gang.manifest, poll_s):
                gang.inbox.put(state)
            lost = time.monotonic() - started < BACKOFF_S
        except UnavailableError as error:
            _say(f"watch: {error.found}; resuming")
            lost = True
        except Exception as error:  # the main thread raises it
            gang.inbox.put(error)
            return
        pause = min(max(2 * pause, BACKOFF_S), BACKOFF_CAP_S) if lost else 0.0


def _wait(gang: _Gang, uid: str, beat: Callable[[], None]) -> None:
    while True:
        state = _take(gang, float("inf"))
        beat()
        if isinstance(state, Exception):
            raise state
        if state is None or state["metadata"]["uid"] != uid or state["metadata"].get("deletionTimestamp"):
            raise UnavailableError(
                expected=f"{gang.manifest['kind']} {gang.manifest['metadata']['name']} to stay until it ends",
                found="somebody else deleted it",
                where=f"namespace {gang.api.namespace}",
                action="run again: shards that are recorded are not computed twice",
            )
        end = ends.of(state)
        if end == "failed":
            raise ends.error_of(state, gang.api.pods(state["metadata"]["name"]))
        if end == "succeeded":
            return


def _take(gang: _Gang, seconds: float) -> Any:
    """Return the next item of the inbox, or None after `seconds`. A signal and the deadline raise exceptions."""
    left = gang.deadline - time.monotonic()
    try:
        item = gang.inbox.get(timeout=max(0.0, min(seconds, left)))
    except Empty:
        if seconds < left:
            return None
        _clean_up(gang, "deadline")
        raise StalledError(
            expected=f"{gang.manifest['kind']} {gang.manifest['metadata']['name']} to end before the launcher's deadline",
            found="it still ran or waited in its queue, and was deleted",
            where=f"namespace {gang.api.namespace}",
            action="run again: shards that are recorded are not computed twice; if no pod ever starts, look at the queue",
        ) from None
    if isinstance(item, int):
        raise _Signalled(item)
    return item


def _clean_up(gang: _Gang, why: str) -> None:
    """Remove the job. Try for `CLEANUP_S` seconds. If that fails, the job ends with its owner or at its own deadline."""
    stop, name = time.monotonic() + CLEANUP_S, gang.manifest["metadata"]["name"]
    while True:
        try:
            _say(f"{why}: {name} {'is deleted' if remove(gang.api, gang.manifest) else 'is not there'}")
            return
        except UnavailableError as error:
            _say(f"{why}: {name} is not deleted yet: {error.found}")
        if time.monotonic() > stop:
            return
        time.sleep(BACKOFF_S)


@contextlib.contextmanager
def _signals(inbox: SimpleQueue[Any]) -> Iterator[None]:
    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        inbox.put(number)  # safe inside a handler: SimpleQueue.put is reentrant

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def _say(text: str) -> None:
    terminal.warn(f"gang: {text}\n")
