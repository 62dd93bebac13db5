"""The head of an evolution on Kubeflow: one small object that says which segment is next and which run may work on it.

Everything below `evolutions/<name>/` that the chain of runs agrees on is here: `chain.json` (how the chain runs,
written once), `head.json` (moved by compare-and-swap only) and `claims/` (who may create the run of a segment, one
create-only object per attempt). A run works only while the head names it: see `instar.fence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from instar import config as configs
from instar import plain
from instar.errors import ArtifactError, ConfigError, LedgerError, UnavailableError
from instar.kfp.api import Version
from instar.store import ObjectStore

Kind: TypeAlias = Literal["begin", "iterate", "finish"]
Status: TypeAlias = Literal["running", "stopped", "done", "failed"]
_TRIES = 20
_COUNTS = ("segment", "iteration", "step", "attempt", "base", "revision")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The state of the chain. `segment` is the number of committed segments, so also the one that is next.

    `run` and `attempt` name the run that holds the segment ("" and `base` when none does). Attempts up to `base` were
    voided by a resume. `by` is the run that moved the head here. `revision` counts every change, so no two are equal.
    """

    evolution: str
    segment: int = 0
    kind: Kind = "begin"
    iteration: int = 0
    step: int = 0
    status: Status = "running"
    reason: str = ""
    ledger: str = ""
    run: str = ""
    attempt: int = 0
    base: int = 0
    by: str = ""
    revision: int = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 0:
                raise LedgerError(
                    expected=f"'{name}' to be 0 or more",
                    found=str(getattr(self, name)),
                    where=path(self.evolution, "head"),
                    action="restore the object from a copy",
                )


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """How the chain runs. `experiment` is the id; `pipelines` maps a segment's kind to the version that runs it.

    `grace_s`: how long a claim without a run is given. `max_attempts`: runs of one segment between two resumes.
    `max_segments`: the highest segment that is ever started.
    """

    experiment: str
    pipelines: dict[str, Version]
    service_account: str
    pipeline_root: str
    store: str
    max_segments: int
    max_attempts: int = 3
    grace_s: float = 900.0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to create the run of one attempt. `at` is in seconds since the epoch, by the claimer's clock."""

    segment: int
    attempt: int
    owner: str
    at: float
    run_name: str


def run_name(evolution: str, segment: int, attempt: int) -> str:
    """Return the display name of the run of one attempt."""
    return f"{evolution}-{segment:06d}-{attempt}"


def create_chain(store: ObjectStore, evolution: str, chain: ChainConfig) -> bool:
    """Write `chain.json` once. False when an equal one is there; `ConfigError` when it differs."""
    if store.create(path(evolution, "chain"), configs.dumps(chain).encode()):
        return True
    if read_chain(store, evolution) == chain:
        return False
    raise ConfigError(
        expected="the settings that this evolution was started with",
        found="others",
        where=path(evolution, "chain"),
        action="use another name for an evolution with other settings, or resume this one",
    )


def read_chain(store: ObjectStore, evolution: str) -> ChainConfig:
    """Return how the chain runs."""
    name = path(evolution, "chain")
    chain: ChainConfig = _parse(ChainConfig, store.read(name), name)
    return chain


def create_head(store: ObjectStore, head: Head) -> bool:
    """Write the first head. False when the evolution has one already."""
    return store.create(path(head.evolution, "head"), configs.dumps(head).encode())


def read_head(store: ObjectStore, evolution: str) -> tuple[Head, str] | None:
    """Return the head and the tag that `move` needs, or None when the evolution was never started.

    `LedgerError` when the head is another evolution's: a copy below this name must not be worked on.
    """
    name = path(evolution, "head")
    found = store.read_tagged(name)
    if found is None:
        return None
    head: Head = _parse(Head, found.data, name)
    _refuse_foreign(f"the head of evolution '{evolution}'", head.evolution, evolution, name)
    return head, found.tag


def move(store: ObjectStore, evolution: str, tag: str, new: Head) -> bool:
    """Replace the head that was read with `tag`. False when somebody else has changed it since."""
    name = path(evolution, "head")
    _refuse_foreign(f"a head of evolution '{evolution}' to write", new.evolution, evolution, name)
    return store.swap(name, configs.dumps(new).encode(), tag)


def change(store: ObjectStore, evolution: str, decide: Callable[[Head], Head | None]) -> Head:
    """Apply `decide` to the head until the swap succeeds; None from it means that nothing is to change.

    Returns the head that is now stored. `LedgerError` when there is no head.
    """
    for _ in range(_TRIES):
        found = read_head(store, evolution)
        if found is None:
            raise LedgerError(
                expected=f"the head of evolution '{evolution}'",
                found="nothing",
                where=path(evolution, "head"),
                action="start the evolution with `instar submit`, or check the store's URI",
            )
        head, tag = found
        wanted = decide(head)
        if wanted is None:
            return head
        new = replace(wanted, revision=head.revision + 1)
        if move(store, evolution, tag, new):
            return new
    raise UnavailableError(
        expected="to change the head",
        found=f"{_TRIES} changes by others in between",
        where=path(evolution, "head"),
        action="run the same command again",
    )


def claim(store: ObjectStore, evolution: str, segment: int, attempt: int, owner: str, at: float) -> Claim | None:
    """Return the claim when this caller is the one that may create the run of this attempt, otherwise None."""
    name = run_name(evolution, segment, attempt)
    made = Claim(segment=segment, attempt=attempt, owner=owner, at=at, run_name=name)
    return made if store.create(claim_path(evolution, segment, attempt), configs.dumps(made).encode()) else None


def latest_claim(store: ObjectStore, evolution: str, segment: int) -> Claim | None:
    """Return the claim of the highest attempt at a segment. `LedgerError` when it is the copy of another claim."""
    names = store.list(f"evolutions/{evolution}/claims/{segment:06d}-")
    if not names:
        return None
    newest = max(names, key=lambda name: (len(name), name))
    found: Claim = _parse(Claim, store.read(newest), newest)
    _refuse_foreign("the claim of its file name", claim_path(evolution, found.segment, found.attempt), newest, newest)
    wanted = run_name(evolution, found.segment, found.attempt)
    _refuse_foreign(f"the claim of run '{wanted}'", found.run_name, wanted, newest)
    return found


def path(evolution: str, what: str) -> str:
    """Return the name of `head` or `chain` in the store."""
    return f"evolutions/{evolution}/{what}.json"


def claim_path(evolution: str, segment: int, attempt: int) -> str:
    """Return the name of a claim in the store."""
    return f"evolutions/{evolution}/claims/{segment:06d}-{attempt:03d}.json"


def _refuse_foreign(expected: str, found: str, wanted: str, name: str) -> None:
    if found != wanted:
        raise LedgerError(
            expected=expected,
            found=f"that of '{found}'",
            where=name,
            action="remove what was copied here, or restore the object from a copy of this evolution",
        )


def _parse(kind: type[Any], data: bytes, name: str) -> Any:
    try:
        raw = plain.loads(data)
    except ValueError as error:
        raise ArtifactError(
            expected=f"a {kind.__name__} in JSON", found=str(error), where=name, action="restore it from a copy"
        ) from error
    return configs.from_dict(kind, raw, where=name)
