"""The head of an evolution on Kubeflow: one small object that says which segment is next and which run may work on it.

The runs of a chain agree through three kinds of objects below `evolutions/<name>/`:
- `chain.json` says how the chain runs. It is written once; only its limit of segments can be raised.
- `head.json` is the head. It is changed by compare-and-swap only.
- `claims/` has one create-only object per attempt. It says which process may create the run of this attempt.

A run works only while the head names it (`instar.fence`).
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
    """The state of the chain. `segment` counts the committed segments, so it is also the number of the next one.

    `run` and `attempt` name the run that holds the next segment. If none holds it, they are "" and `base`.
    `base` is the last attempt before the latest resume: attempts up to it no longer count.
    `by` is the run that moved the head to this segment.
    `revision` counts every change of the head. So two versions never have the same bytes.
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
                    expected=f"'{name}' to be at least 0",
                    found=str(getattr(self, name)),
                    where=path(self.evolution, "head"),
                    action="restore the object from a copy",
                )


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """How the chain runs. `experiment` is an id; `pipelines` maps the kind of a segment to the pipeline version that runs it.

    `grace_s`: how many seconds a claim may stand without a run before the attempt counts as lost.
    `max_attempts`: how many runs of one segment may be started between two resumes.
    `max_segments`: no segment above this number is started.
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
    """The right to create the run of one attempt. `at` is in seconds since 1970, by the clock of the owner."""

    segment: int
    attempt: int
    owner: str
    at: float
    run_name: str


def run_name(evolution: str, segment: int, attempt: int) -> str:
    """Return the display name of the run of one attempt."""
    return f"{evolution}-{segment:06d}-{attempt}"


def create_chain(store: ObjectStore, evolution: str, chain: ChainConfig) -> bool:
    """Write `chain.json` once. Return False if an equal one is there. Raise `ConfigError` if a different one is there."""
    if store.create(path(evolution, "chain"), configs.dumps(chain).encode()):
        return True
    if read_chain(store, evolution) == chain:
        return False
    raise ConfigError(
        expected="the settings that this evolution was started with",
        found="other settings",
        where=path(evolution, "chain"),
        action="use another name for an evolution with other settings, or resume this one",
    )


def read_chain(store: ObjectStore, evolution: str) -> ChainConfig:
    """Return how the chain runs."""
    name = path(evolution, "chain")
    chain: ChainConfig = _parse(ChainConfig, store.read(name), name)
    return chain


def raise_limit(store: ObjectStore, evolution: str, max_segments: int) -> None:
    """Raise the limit of segments to `max_segments`. A limit that is as high already stays."""
    name = path(evolution, "chain")
    for _ in range(_TRIES):
        stored = store.read_tagged(name)
        chain: ChainConfig = _parse(ChainConfig, stored.data if stored else store.read(name), name)
        higher = configs.dumps(replace(chain, max_segments=max_segments)).encode()
        if chain.max_segments >= max_segments or (stored is not None and store.swap(name, higher, stored.tag)):
            return
    raise UnavailableError(
        expected="to raise the limit of segments",
        found=f"that others changed the chain first, {_TRIES} times in a row",
        where=name,
        action="run the same command again",
    )


def create_head(store: ObjectStore, head: Head) -> bool:
    """Write the first head. Return False if the evolution has one already."""
    return store.create(path(head.evolution, "head"), configs.dumps(head).encode())


def read_head(store: ObjectStore, evolution: str) -> tuple[Head, str] | None:
    """Return the head and the tag that `move` needs, or None if the evolution was never started.

    Raise `LedgerError` if the head belongs to another evolution. This happens when somebody copies a folder of the store.
    """
    name = path(evolution, "head")
    stored = store.read_tagged(name)
    if stored is None:
        return None
    head: Head = _parse(Head, stored.data, name)
    _refuse_foreign(f"the head of evolution '{evolution}'", head.evolution, evolution, name)
    return head, stored.tag


def move(store: ObjectStore, evolution: str, tag: str, new: Head) -> bool:
    """Replace the head that was read with `tag`. Return False if somebody else has changed it since."""
    name = path(evolution, "head")
    _refuse_foreign(f"a head of evolution '{evolution}' to write", new.evolution, evolution, name)
    return store.swap(name, configs.dumps(new).encode(), tag)


def change(store: ObjectStore, evolution: str, decide: Callable[[Head], Head | None]) -> Head:
    """Change the head to what `decide` returns for it, and return the head that is now stored.

    If somebody else changes the head in between, the new head is read and `decide` is called again. `decide` returns None to
    leave the head as it is. Raise `LedgerError` if there is no head.
    """
    for _ in range(_TRIES):
        current = read_head(store, evolution)
        if current is None:
            raise LedgerError(
                expected=f"the head of evolution '{evolution}'",
                found="nothing",
                where=path(evolution, "head"),
                action="start the evolution with `instar submit`, or check the store's URI",
            )
        head, tag = current
        wanted = decide(head)
        if wanted is None:
            return head
        new = replace(wanted, revision=head.revision + 1)
        if move(store, evolution, tag, new):
            return new
    raise UnavailableError(
        expected="to change the head",
        found=f"that others changed it first, {_TRIES} times in a row",
        where=path(evolution, "head"),
        action="run the same command again",
    )


def claim(store: ObjectStore, evolution: str, segment: int, attempt: int, owner: str, at: float) -> Claim | None:
    """Return the claim if this caller may create the run of this attempt. Return None if another process has the claim."""
    name = run_name(evolution, segment, attempt)
    new_claim = Claim(segment=segment, attempt=attempt, owner=owner, at=at, run_name=name)
    return (
        new_claim if store.create(claim_path(evolution, segment, attempt), configs.dumps(new_claim).encode()) else None
    )


def latest_claim(store: ObjectStore, evolution: str, segment: int) -> Claim | None:
    """Return the claim of the highest attempt at a segment. Raise `LedgerError` if it is a copy of another claim."""
    names = store.list(f"evolutions/{evolution}/claims/{segment:06d}-")
    if not names:
        return None
    newest = max(names, key=lambda name: (len(name), name))
    newest_claim: Claim = _parse(Claim, store.read(newest), newest)
    _refuse_foreign(
        "the claim of its file name", claim_path(evolution, newest_claim.segment, newest_claim.attempt), newest, newest
    )
    wanted = run_name(evolution, newest_claim.segment, newest_claim.attempt)
    _refuse_foreign(f"the claim of run '{wanted}'", newest_claim.run_name, wanted, newest)
    return newest_claim


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
            action="remove the copied object, or restore the right one from a copy of this evolution",
        )


def _parse(kind: type[Any], data: bytes, name: str) -> Any:
    try:
        raw = plain.loads(data)
    except ValueError as error:
        raise ArtifactError(
            expected=f"a {kind.__name__} in JSON", found=str(error), where=name, action="restore it from a copy"
        ) from error
    return configs.from_dict(kind, raw, where=name)
