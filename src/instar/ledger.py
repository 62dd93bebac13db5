"""The ledger: an append-only, hash-chained record of one evolution.

Entry `n` is the object `evolutions/<name>/ledger/<n>.json`. It is written by a conditional create, so two writers can never
both append it. Each entry has the digest of the entry before it.

The digest does not cover `time`, which holds clock readings and `perf/` metrics. So two runs that did the same work have the
same head. A second digest, the `seal`, covers `time`, so that a change of any byte is noticed. Nothing else depends on the
seal. Entries of early versions have no seal; they are read without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from instar import entries, plain
from instar.errors import LedgerError, LockedError
from instar.plain import brief
from instar.store import ObjectStore

Kind = Literal["open", "stage", "gate", "promote", "accept_code", "extend", "close"]
GENESIS = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the ledger. `body` depends on `kind`. A stage entry, for example, holds key, inputs, outputs and metrics."""

    seq: int
    prev: str
    kind: Kind
    body: Mapping[str, Any]
    time: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything but `time`."""
        text = _canonical({"seq": self.seq, "prev": self.prev, "kind": self.kind, "body": self.body})
        return hashlib.sha256(text).hexdigest()

    @property
    def seal(self) -> str:
        """SHA-256 of the digest and `time`."""
        return hashlib.sha256(_canonical({"digest": self.digest, "time": self.time})).hexdigest()

    def dump(self) -> bytes:
        """Return the stored form."""
        fields = {"seq": self.seq, "prev": self.prev, "kind": self.kind, "body": self.body, "time": self.time}
        return _canonical({**fields, "digest": self.digest, "seal": self.seal})


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parse(data: bytes, name: str) -> Entry:
    try:
        raw = plain.loads(data)
        stated, sealed = raw.pop("digest"), raw.pop("seal", None)
        entry = Entry(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken("a ledger entry in JSON", f"{type(error).__name__}: {error}", name) from error
    if entry.digest != stated:
        raise _broken(f"digest {brief(stated)}", f"content with digest {entry.digest}", name)
    if sealed not in (None, entry.seal):
        raise _broken(f"seal {brief(sealed)}", f"a time with seal {entry.seal}", f"{name}:time")
    entries.check(entry.kind, entry.body, entry.time, name)
    return entry


def _read(store: ObjectStore, name: str) -> Entry:
    """Return an entry. If it is not valid it is read once more, because its bytes may have changed on the way."""
    try:
        return _parse(store.read(name), name)
    except LedgerError:
        return _parse(store.read(name), name)


def _broken(expected: str, found: str, where: str) -> LedgerError:
    return LedgerError(
        expected=expected, found=found, where=where, action="restore this entry from a copy of the store"
    )


class Ledger:
    """The entries of one evolution, verified when loaded.

    `adopt` is True where several processes may append the same entries from the same records (`instar.records`). If another
    process was first with an equal entry, that entry is used. With `adopt` False, an entry of another process is an error.
    """

    adopt = False

    def __init__(self, store: ObjectStore, evolution: str) -> None:
        self.store, self.evolution = store, evolution
        self.prefix = f"evolutions/{evolution}/ledger/"
        self.entries: list[Entry] = []
        self._by_key: dict[str, Entry] = {}
        for number, name in enumerate(store.list(self.prefix)):
            entry = _read(store, name)
            if type(entry.seq) is not int or entry.seq != number or entry.prev != self.head:
                raise _broken(
                    f"entry {number} after {self.head[:12]}",
                    f"entry {brief(entry.seq)} after {brief(entry.prev)[:13]}",
                    name,
                )
            self._add(entry)

    @property
    def head(self) -> str:
        """Digest of the last entry: a fingerprint of the whole evolution."""
        return self.entries[-1].digest if self.entries else GENESIS

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as plain data, with the iterations that are planned now. It is empty before the ledger is opened.

        The opening entry has the iterations of that time. Each `extend` entry has a newer number.
        """
        opened = next(self.of("open"), None)
        if opened is None:
            return {}
        planned = [entry.body["iterations"] for entry in self.of("extend")]
        return {**opened.body["recipe"], **({"iterations": planned[-1]} if planned else {})}

    @property
    def closing(self) -> Entry | None:
        """The entry that ended the evolution. It is None while the evolution goes on, also after it was extended."""
        turns = [entry for entry in self.entries if entry.kind in ("extend", "close")]
        return turns[-1] if turns and turns[-1].kind == "close" else None

    def append(self, kind: Kind, body: Mapping[str, Any], time: Mapping[str, Any]) -> Entry:
        """Write the next entry. Raise `LockedError` if another process wrote it first."""
        entry = Entry(seq=len(self.entries), prev=self.head, kind=kind, body=body, time=time)
        name = f"{self.prefix}{entry.seq:08d}.json"
        if not self.store.create(name, entry.dump()):
            standing = _read(self.store, name) if self.adopt else None
            if standing is not None and standing.digest == entry.digest:
                self._add(standing)
                return standing
            raise LockedError(
                expected=f"to be the only writer of evolution '{self.evolution}'",
                found="an entry that this process did not write",
                where=name,
                action="stop the other run, then resume",
            )
        self._add(entry)
        return entry

    def committed(self, key: str) -> Entry | None:
        """Return the stage entry with this memo key, if its result is already in the ledger."""
        return self._by_key.get(key)

    def of(self, kind: Kind) -> Iterator[Entry]:
        """Yield entries of one kind in order."""
        return (entry for entry in self.entries if entry.kind == kind)

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.kind == "stage":
            self._by_key[entry.body["key"]] = entry


def memo_key(
    *,
    stage: str,
    version: int,
    config: str,
    inputs: Mapping[str, str],
    evolution: str,
    step: int,
    shard: tuple[int, int] = (0, 1),
) -> str:
    """Return the hash of everything that a stage's result depends on: stage, version, config, inputs, seed keys and shard.

    Equal keys promise equal outputs.
    """
    fields = {"stage": stage, "version": version, "config": config, "inputs": dict(inputs), "seed": [evolution, step]}
    part = {"shard": list(shard)} if shard != (0, 1) else {}
    return hashlib.sha256(_canonical({**fields, **part})).hexdigest()
