"""The library of the C++ kernel: where it lies, how it is built and loaded.

It lies in `$INSTAR_CACHE`, else `$XDG_CACHE_HOME/instar`, else `~/.cache/instar`, under a name made of source, flags and
processor, so that another processor or a changed source never meets an old library. A JSON file beside it names the
compiler; building with another compiler replaces both. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from instar.errors import ArtifactError, MissingDependencyError, StorageError

SOURCE = Path(__file__).with_name("scan.cpp")
TUNE = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"
FLAGS = ("-std=gnu++17", "-O3", TUNE, "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
COMPILERS = ("g++", "c++", "clang++")
BUILD = "python -m instar.kernels.selective_scan.cpp build"


def load() -> ctypes.CDLL:
    """Return the loaded library. Not built is a `MissingDependencyError`, damaged or foreign an `ArtifactError`."""
    path = library_path()
    if not is_built():
        raise MissingDependencyError(
            expected=f"the built kernel {path}", found="no such file", where="selective_scan:cpp",
            action=f"run `{BUILD}`, or set INSTAR_SCAN_CPP=1 to have it built at the first use",
        )  # fmt: skip
    return _open(path)


def is_built() -> bool:
    """Return whether this process has a library for this source and processor; asked once, then remembered."""
    return _exists(library_path())


@cache
def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder of another user
        return False


@cache
def _open(path: Path) -> ctypes.CDLL:
    status = path.stat()
    foreign = hasattr(os, "getuid") and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022)
    try:
        if foreign:
            raise OSError("another user owns it or may write to it")
        lib = ctypes.CDLL(str(path))
        lib.instar_scan_chunk.restype = ctypes.c_int64
        lib.instar_scan_forward.restype = lib.instar_scan_backward.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        raise ArtifactError(
            expected="a library that this user built", found=str(error), where=str(path),
            action=f"delete it and run `{BUILD}`",
        ) from error  # fmt: skip
    return lib


def library_path() -> Path:
    """Return where the library of this source, these flags and this processor lies, built or not."""
    return _path(os.environ.get("INSTAR_CACHE"), os.environ.get("XDG_CACHE_HOME"), SOURCE)


@cache
def _path(folder: str | None, xdg: str | None, source: Path) -> Path:
    try:
        root = Path(folder) if folder else Path(xdg or Path.home() / ".cache") / "instar"
    except RuntimeError:  # a user without an entry and without HOME, as in some containers
        root = Path(tempfile.gettempdir(), f"instar-{os.getuid()}")
    return root / "selective_scan" / f"scan-{_digest(source)}.so"


@cache
def _digest(source: Path) -> str:
    parts = [source.read_bytes(), *(flag.encode() for flag in FLAGS), _processor()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(flags))]).encode()


def build(compiler: str | None = None) -> Path:
    """Build the library unless this compiler already has, and return its path.

    `compiler` is a program, else `$CXX`, else the first of g++, c++ and clang++ on the path. No compiler or a failed call
    is a `MissingDependencyError`, a folder that takes no file a `StorageError`. Processes may build at once.
    """
    named = compiler or os.environ.get("CXX")
    program = next((p for word in ([named] if named else COMPILERS) if (p := shutil.which(word))), None)
    if program is None:
        raise _no_build(f"no program {named or ', '.join(COMPILERS)}")
    made = {"compiler": program, "version": _run([program, "--version"]).splitlines()[0], "flags": list(FLAGS)}
    path = library_path()
    record = path.with_suffix(".json")
    try:
        if not (path.exists() and record.exists() and json.loads(record.read_text()) == made):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                _run([program, *FLAGS, "-o", f"{folder}/scan.so", str(SOURCE)])
                Path(folder, "scan.so").chmod(0o755)
                Path(folder, "scan.json").write_text(json.dumps(made))
                Path(folder, "scan.so").replace(path)
                Path(folder, "scan.json").replace(record)
    except OSError as error:
        raise StorageError(
            expected="a folder for the built kernel", found=str(error), where=str(path.parent),
            action="name another folder in INSTAR_CACHE",
        ) from error  # fmt: skip
    _exists.cache_clear()
    _open.cache_clear()
    return path


def _run(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_build(f"{words[0]}: {error}") from error
    if done.returncode:
        raise _no_build(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    return done.stdout


def _no_build(found: str) -> MissingDependencyError:
    return MissingDependencyError(
        expected="a C++17 compiler with vector extensions (g++ >= 9 or clang >= 11)", found=found, where="selective_scan:cpp",
        action="install one (Debian: `apt-get install g++`) or name it in CXX; without it the sliced version runs",
    )  # fmt: skip
