"""The directory of one evolution: lock, store, artifact cache, scratch.

DIR/evolution.json   name of the evolution, and the URI of its store
DIR/store/           objects (unless the store is remote): blobs, manifests, the ledger
DIR/cache/           artifacts as folders; safe to delete
DIR/scratch/         folders of stages that are running; safe to delete when no stage runs
DIR/lock             held by the one process that runs the evolution
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from instar import plain
from instar.artifact import Artifact
from instar.cas import Cas
from instar.errors import ConfigError, LedgerError, LockedError
from instar.ledger import Ledger
from instar.plain import brief
from instar.store import open_store
from instar.store_files import storage_errors

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What an evolution may be called."""


class Workspace:
    """An opened evolution directory. Use `open_workspace` or `create_workspace`."""

    def __init__(self, path: Path, evolution: str, store_uri: str) -> None:
        self.path, self.evolution, self.store_uri = path, evolution, store_uri
        self.store = open_store(store_uri)
        self.cas = Cas(self.store, path / "cache")
        self.ledger = Ledger(self.store, evolution)

    def put(self, artifact: Artifact) -> str:
        """Store an artifact's folder durably and return its digest."""
        digest = self.cas.put(artifact.path, type(artifact).__name__)
        if artifact.digest and digest != artifact.digest:
            raise LedgerError(
                expected=f"artifact {artifact.digest}",
                found=f"artifact {digest}, because something changed the folder of the stage",
                where=str(artifact.path),
                action="run again",
            )
        return digest

    def fresh_scratch(self, name: str) -> Path:
        """Return an empty folder for a stage. Whatever a killed run left there is removed."""
        folder = self.path / "scratch" / name
        with storage_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder


def create_workspace(path: Path, evolution: str, store_uri: str | None = None) -> Workspace:
    """Create an evolution directory, or reopen one that was created with the same name and store."""
    if not NAME.fullmatch(evolution):
        raise ConfigError(
            expected="a name of letters, digits, '.', '_' and '-' that begins with a letter or digit",
            found=repr(evolution),
            where="--name",
            action="choose another name",
        )
    uri = store_uri or str((path / "store").resolve())
    if (path / "evolution.json").exists():
        workspace = open_workspace(path)
        if (workspace.evolution, workspace.store_uri) != (evolution, uri):
            raise ConfigError(
                expected=f"evolution '{workspace.evolution}' in {workspace.store_uri}",
                found=f"'{evolution}' in {uri}",
                where=str(path),
                action="choose another --out, or resume this one",
            )
        return workspace
    open_store(uri)  # an invalid URI is refused before it is written to the file
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        temporary = path / ".evolution.json"
        stored = "store" if store_uri is None else uri
        temporary.write_text(json.dumps({"evolution": evolution, "store": stored}) + "\n")
        temporary.rename(path / "evolution.json")
    return Workspace(path, evolution, uri)


def open_workspace(path: Path) -> Workspace:
    """Open an existing evolution directory."""
    try:
        raw = plain.loads((path / "evolution.json").read_text())
        name, stored = raw["evolution"], raw["store"]
        if not isinstance(name, str) or not isinstance(stored, str):
            raise TypeError("not text")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            expected="an evolution directory with evolution.json",
            found=f"{type(error).__name__}: {brief(str(error))}",
            where=str(path),
            action="check the path; `instar run RECIPE --out DIR` creates such a directory",
        ) from error
    return Workspace(path, name, str((path / "store").resolve()) if stored == "store" else stored)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the directory. The kernel releases it when the process ends, however it ends."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise LockedError(
            expected="no other run on this directory",
            found=f"process {owner}",
            where=str(path / "lock"),
            action="wait for that process or stop it, then resume",
        ) from error
    try:
        with storage_errors(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
