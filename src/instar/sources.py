"""Evolutions that another one learns from: found by their URI, pinned by digest when the other one opens.

    sources = ["s3://bucket/runs/evolutions/chess-seed0", "runs/go/store/evolutions/go-seed0"]

A URI is that of a store, then `/evolutions/` and a name: where the ledger of the evolution lies. What is read there is stored as an
artifact of class `Source`, whose digest the opening entry names. A source that goes on afterwards changes nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from instar.artifact import Source
from instar.cas import Cas
from instar.errors import ConfigError, LedgerError
from instar.ledger import Entry, Ledger
from instar.plain import brief
from instar.status import position
from instar.store import ObjectStore, open_store
from instar.store_files import storage_errors
from instar.workspace import NAME, Workspace

FOLDER = "/evolutions/"


def pinned(ledger: Ledger) -> tuple[Source, ...]:
    """Return the sources that an evolution was opened with."""
    opened = next(ledger.of("open"), None)
    digests = opened.body.get("sources", []) if opened is not None else []
    return tuple(Source(None, digest) for digest in digests)


def pin(workspace: Workspace, uri: str) -> str:
    """Store what the evolution at `uri` has reached, and return the digest of the artifact.

    The workspace's store gets copies of what it lacks. A ledger that is broken, empty or without a champion is a `LedgerError`.
    """
    source, evolution = locate(uri)
    ledger = Ledger(source, evolution)
    _, champion = position(ledger.entries)
    if not champion:
        raise LedgerError(
            expected="an evolution that has a champion",
            found=f"a ledger of {len(ledger.entries)} entries without a gate" if ledger.entries else "no ledger",
            where=uri,
            action="correct the URI, or run that evolution until its first policy is evaluated",
        )
    opened = next(ledger.of("open"))
    about = {"evolution": evolution, "recipe": opened.body["name"], "head": ledger.head, "champion": champion}
    artifact = Source(workspace.fresh_scratch("source"))
    with storage_errors(artifact.path):
        artifact.write_json("source.json", about)
        (artifact.path / "ledger.jsonl").write_text("".join(_line(entry) for entry in ledger.entries), encoding="utf-8")
        _link_tables(ledger, Cas(source, workspace.cas.cache), artifact.path / "tried")
        digest = workspace.put(artifact)
        shutil.rmtree(artifact.path)
    return digest


def locate(uri: str) -> tuple[ObjectStore, str]:
    """Return the store and the name of the evolution at `uri`. A URI that is none is a `ConfigError`."""
    store, folder, name = uri.rpartition(FOLDER)
    if not folder or not NAME.fullmatch(name):
        raise ConfigError(
            expected=f"STORE{FOLDER}NAME: the URI of a store, and an evolution in it",
            found=brief(uri),
            where="recipe.sources",
            action=f"for the evolution NAME of `instar show DIR` write DIR/store{FOLDER}NAME",
        )
    return open_store(store), name


def _line(entry: Entry) -> str:
    """Return an entry as a line. Two sources that did the same work at other times are equal."""
    fields = {"seq": entry.seq, "prev": entry.prev, "kind": entry.kind, "body": entry.body, "digest": entry.digest}
    return json.dumps(fields, sort_keys=True) + "\n"


def _link_tables(ledger: Ledger, cas: Cas, folder: Path) -> None:
    """Link the scored rollouts and their scores into `folder`, one sub-folder for each entry that has scores."""
    for entry, tables in _scored(ledger):
        for name, digest in tables.items():
            target = folder / f"{entry.seq:06d}" / name
            target.mkdir(parents=True)
            for file in cas.get(digest).iterdir():
                (target / file.name).symlink_to(file)


def _scored(ledger: Ledger) -> Iterator[tuple[Entry, dict[str, str]]]:
    """Yield the entries that have scores, with the digests of both tables. A fused segment has made both itself."""
    for entry in ledger.of("stage"):
        inputs, outputs = entry.body["inputs"], entry.body["outputs"]
        if "scores" in outputs:
            yield entry, {"rollouts": outputs.get("rollouts") or inputs["rollouts"], "scores": outputs["scores"]}
