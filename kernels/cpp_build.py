"""C++ kernels without torch headers: where their libraries lie, how they are built and loaded.

A library lies in `$INSTAR_CACHE`, else `$XDG_CACHE_HOME/instar`, else `~/.cache/instar`, under a name made of source, flags
and processor, so that another processor or a changed source never meets an old library. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from instar.errors import ArtifactError, MissingDependencyError, StorageError

TUNE = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"
FLAGS = ("-std=gnu++17", "-O3", TUNE, "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
COMPILERS = ("g++", "c++", "clang++")


def library_path(source: Path) -> Path:
    """Return where the library of `source`, these flags and this processor lies, built or not."""
    return _path(os.environ.get("INSTAR_CACHE"), os.environ.get("XDG_CACHE_HOME"), source)


@cache
def _path(folder: str | None, xdg: str | None, source: Path) -> Path:
    try:
        root = Path(folder) if folder else Path(xdg or Path.home() / ".cache") / "instar"
    except RuntimeError:  # a user without an entry and without HOME, as in some containers
        root = Path(tempfile.gettempdir(), f"instar-{os.getuid()}")
    return root / source.parent.name / f"{source.stem}-{_digest(source)}.so"


@cache
def _digest(source: Path) -> str:
    parts = [source.read_bytes(), *(flag.encode() for flag in FLAGS), _processor()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(flags))]).encode()


def load(source: Path, command: str) -> ctypes.CDLL:
    """Return the loaded library. Not built is a `MissingDependencyError`, damaged or foreign an `ArtifactError`."""
    path = library_path(source)
    if not is_built(source):
        raise MissingDependencyError(
            expected=f"the built kernel {path}", found="no such file", where=str(source.parent.name),
            action=f"run `{command}`",
        )  # fmt: skip
    return _open(path, command)


def is_built(source: Path) -> bool:
    """Return whether this process has a library for this source and processor; asked once, then remembered."""
    return _exists(library_path(source))


@cache
def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder of another user
        return False


@cache
def _open(path: Path, command: str) -> ctypes.CDLL:
    status = path.stat()
    foreign = hasattr(os, "getuid") and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022)
    try:
        if foreign:
            raise OSError("another user owns it or may write to it")
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ArtifactError(
            expected="a library that this user built", found=str(error), where=str(path),
            action=f"delete it and run `{command}`",
        ) from error  # fmt: skip


def build(source: Path, compiler: str | None = None) -> Path:
    """Build the library of `source` unless it lies there, and return its path.

    `compiler` is a program, else `$CXX`, else the first of g++, c++ and clang++ on the path. No compiler or a failed call
    is a `MissingDependencyError`, a folder that takes no file a `StorageError`. Processes may build at once.
    """
    named = compiler or os.environ.get("CXX")
    program = next((p for word in ([named] if named else COMPILERS) if (p := shutil.which(word))), None)
    if program is None:
        raise _no_build(source, f"no program {named or ', '.join(COMPILERS)}")
    path = library_path(source)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made = Path(folder, "made.so")
                _compile(source, [program, *FLAGS, "-o", str(made), str(source)])
                made.chmod(0o755)
                made.replace(path)
    except OSError as error:
        raise StorageError(
            expected="a folder for the built kernel", found=str(error), where=str(path.parent),
            action="name another folder in INSTAR_CACHE",
        ) from error  # fmt: skip
    _exists.cache_clear()
    _open.cache_clear()
    return path


def _compile(source: Path, words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_build(source, f"{words[0]}: {error}") from error
    if done.returncode:
        raise _no_build(source, f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-600:]}")


def _no_build(source: Path, found: str) -> MissingDependencyError:
    return MissingDependencyError(
        expected="a C++17 compiler with vector extensions (g++ >= 9 or clang >= 11)", found=found, where=source.parent.name,
        action="install one (Debian: `apt-get install g++`) or name it in CXX; without it plain torch runs",
    )  # fmt: skip
