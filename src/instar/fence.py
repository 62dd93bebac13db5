"""The fence: only one run at a time may work on an evolution, and only this run can move the head.

A Kubeflow server may create a run twice, or create it late. Such a run fails here in its first task and does no work.
A run can also lose the fence to a newer attempt while it works. It is refused when it commits.
"""

from __future__ import annotations

from dataclasses import replace

from instar.errors import LedgerError, LockedError
from instar.head import Head, change, claim_path, path
from instar.store import ObjectStore


def hold(store: ObjectStore, evolution: str, segment: int, attempt: int, run_id: str) -> Head:
    """Take the fence for a run. The first task of a run calls this before any other task of the run starts.

    A run gets the fence if it is a run of the next segment and its attempt is newer than that of the holder. The holder itself
    may take it again. Every other run gets a `LockedError`: a duplicate, an older attempt, or any run of an evolution that is
    not running.
    """
    if not store.exists(claim_path(evolution, segment, attempt)):
        raise _locked(f"a claim for attempt {attempt} at segment {segment}", "none", evolution)

    def decide(head: Head) -> Head | None:
        if head.status != "running" or head.segment != segment:
            raise _locked(f"segment {segment} to be next", f"segment {head.segment}, {head.status}", evolution)
        if run_id and head.run == run_id:
            return None
        if not run_id or head.attempt >= attempt:
            raise _locked(f"attempt {attempt} to be the newest", _holder(head), evolution)
        return replace(head, run=run_id, attempt=attempt)

    return change(store, evolution, decide)


def check_held(store: ObjectStore, evolution: str, run_id: str) -> Head:
    """Return the head if this run holds the fence or has already moved the head; otherwise raise `LockedError`.

    Call this before a commit.
    """

    def decide(head: Head) -> None:
        _refuse_unless_held(head, run_id)

    return change(store, evolution, decide)


def advance_head(store: ObjectStore, evolution: str, run_id: str, following: Head) -> bool:
    """Move the head past the segment that `run_id` holds. Return True if this call moved it, False if an earlier one did.

    `following` has the segment, kind, iteration, step, status, reason and ledger of the new head.
    Raise `LockedError` when the run does not hold the fence, or when the evolution was stopped.
    """
    moved = False

    def decide(head: Head) -> Head | None:
        nonlocal moved
        _refuse_unless_held(head, run_id)
        moved = head.by != run_id
        if not moved:
            return None
        if (following.evolution, following.segment) != (evolution, head.segment + 1):
            raise LedgerError(
                expected=f"the head of '{evolution}' after segment {head.segment}",
                found=f"'{following.evolution}', segment {following.segment}",
                where=path(evolution, "head"),
                action="report this as a fault of instar: a segment moves the head by exactly one",
            )
        return replace(following, run="", attempt=0, base=0, by=run_id)

    change(store, evolution, decide)
    return moved


def _refuse_unless_held(head: Head, run_id: str) -> None:
    if run_id and head.by == run_id:
        return  # it has moved the head already
    if not run_id or head.run != run_id:
        raise _locked(f"run {run_id} to hold segment {head.segment}", _holder(head), head.evolution)
    if head.status != "running":
        raise _locked("a running evolution", f"{head.status}: {head.reason}", head.evolution)


def _holder(head: Head) -> str:
    return f"attempt {head.attempt} by run {head.run}" if head.run else f"no holder after attempt {head.attempt}"


def _locked(expected: str, found: str, evolution: str) -> LockedError:
    return LockedError(
        expected=expected,
        found=found,
        where=path(evolution, "head"),
        action="do nothing: this run may not work on the evolution now; `instar status` shows which run may",
    )
