"""Where the libraries of the C++ kernels lie, and which of them this processor can run.

A library for this processor lies in `$INSTAR_CACHE`, else `$XDG_CACHE_HOME/instar`, else `~/.cache/instar`, under a name made
of source, flags and processor, so that another processor or a changed source never meets an old library. An image has no
compiler and meets many processors: it brings libraries for the `LEVELS` of x86-64 in `PORTABLE`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from functools import cache
from pathlib import Path

TUNE = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"
FLAGS = ("-std=gnu++17", "-O3", "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
PORTABLE = Path(sys.prefix, "share", "instar", "kernels")
_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
LEVELS = {
    "x86-64-v4-bf16": (("-march=x86-64-v4", "-mavx512bf16"), _V4 | {"avx512_bf16"}),
    "x86-64-v4": (("-march=x86-64-v4",), _V4),
    "x86-64-v3": (("-march=x86-64-v3",), _V3),
}
"""Best first: what the compiler is told, and the flags of /proc/cpuinfo that a processor needs for it."""


def native(source: Path) -> Path:
    """Return where the library of this source, these flags and this processor lies, built or not."""
    return _native(os.environ.get("INSTAR_CACHE"), os.environ.get("XDG_CACHE_HOME"), source)


def portable(source: Path, level: str, folder: Path | None = None) -> Path:
    """Return where the library of a level lies in `folder`, or in that of this installation, built or not."""
    return (folder or PORTABLE) / f"{source.parent.name}-{level}-{_digest(source, LEVELS[level][0], b'')}.so"


def candidates(source: Path) -> list[tuple[Path, str]]:
    """Return the libraries that would run here, the best first, each with what it is built for."""
    return [(native(source), "this processor"), *((portable(source, level), level) for level in _runnable())]


@cache
def _native(folder: str | None, xdg: str | None, source: Path) -> Path:
    try:
        root = Path(folder) if folder else Path(xdg or Path.home() / ".cache") / "instar"
    except RuntimeError:  # a user without an entry and without HOME, as in some containers
        root = Path(tempfile.gettempdir(), f"instar-{os.getuid()}")
    return root / source.parent.name / f"{source.stem}-{_digest(source, (TUNE,), _processor())}.so"


@cache
def _digest(source: Path, tune: tuple[str, ...], processor: bytes) -> str:
    parts = [source.read_bytes(), *(flag.encode() for flag in (*FLAGS, *tune)), processor]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@cache
def _processor() -> bytes:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(flags))]).encode()


@cache
def _runnable() -> tuple[str, ...]:
    """Return the levels whose instructions this processor has, best first."""
    words = set(_processor().decode().split())
    return tuple(level for level, (_, needed) in LEVELS.items() if needed <= words)


@cache
def exists(path: Path) -> bool:
    """Return whether the file is there; asked once per path, then remembered."""
    try:
        return path.exists()
    except OSError:  # a folder of another user
        return False
