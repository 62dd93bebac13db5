"""What one process keeps in memory between its stage calls, so that nothing is read or started twice.

        an update                        the runner                   the next rollout
    put(MODEL, outs.policy, model)  ->  adopt(outs.policy)  ->  get(MODEL, ins.policy.digest)

What is kept belongs to an artifact, and is found by that artifact's digest. An output has no digest while its stage runs, so what a
stage leaves for it waits under its folder until the runner adopts it. A kind of which a process has one, whatever artifacts there
are (a server, a group of processes), is put for None and found without a digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from instar.artifact import Artifact

T = TypeVar("T")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What sort of value is kept. A module declares its kinds once: `MODEL: Kind[PreTrainedModel] = Kind("model")`."""

    name: str
    newest: int = 0
    """How many are kept, for example 1 where a value is large. The one that was used least recently goes. 0 keeps all."""


class Resident:
    """The values that a process keeps, by kind and by the digest of their artifact."""

    def __init__(self) -> None:
        self._filed: dict[Kind[Any], dict[str, Any]] = {}
        self._waiting: dict[str, dict[Kind[Any], Any]] = {}
        """By the folder of an output that has no digest yet."""

    def put(self, kind: Kind[T], artifact: Artifact | None, value: T) -> None:
        """Keep `value` for `artifact`, or as the only one of its kind. An artifact without a digest has to be adopted."""
        if artifact is not None and not artifact.digest:
            self._waiting.setdefault(str(artifact.path), {})[kind] = value
            return
        digest = artifact.digest if artifact is not None else ""
        values = self._filed.setdefault(kind, {})
        values.pop(digest, None)
        values[digest] = value
        while kind.newest and len(values) > kind.newest:
            del values[next(iter(values))]

    def get(self, kind: Kind[T], digest: str = "") -> T | None:
        """Return what is kept for the artifact of this digest, or None."""
        values = self._filed.get(kind, {})
        if digest not in values:
            return None
        values[digest] = value = values.pop(digest)  # the last one is the one that was used most recently
        return cast(T, value)

    def take(self, kind: Kind[T], digest: str = "") -> T | None:
        """Return what `get` returns, and keep it no longer."""
        return cast("T | None", self._filed.get(kind, {}).pop(digest, None))

    def drop(self, digest: str) -> None:
        """Forget whatever is kept for the artifact of this digest. What a process has one of stays."""
        if digest:
            for values in self._filed.values():
                values.pop(digest, None)

    def drop_all(self, kind: Kind[Any]) -> None:
        """Forget every value of a kind."""
        self._filed.pop(kind, None)

    def clear(self) -> None:
        """Forget everything."""
        self._filed.clear()
        self._waiting.clear()

    def waiting(self, kind: Kind[T], artifact: Artifact) -> T | None:
        """Return what waits for an output to be adopted, or None."""
        return cast("T | None", self._waiting.get(str(artifact.path), {}).get(kind))

    def adopt(self, artifact: Artifact) -> None:
        """File what waits for `artifact` under its digest. It takes the place of everything else of its kinds."""
        for kind, value in self._waiting.pop(str(artifact.path), {}).items():
            self._filed[kind] = {artifact.digest: value}

    def hand_over(self, digest: str, artifact: Artifact) -> None:
        """Let what is kept for the artifact of this digest wait for another one, to which its files have been moved."""
        waiting = {kind: values.pop(digest) for kind, values in self._filed.items() if digest in values}
        self._waiting.setdefault(str(artifact.path), {}).update(waiting)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the kind's name and the digest of everything that is kept; of what waits, the folder."""
        yield from ((kind.name, digest) for kind, values in self._filed.items() for digest in values)
        yield from ((kind.name, folder) for folder, values in self._waiting.items() for kind in values)
