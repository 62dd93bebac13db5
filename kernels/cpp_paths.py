"""Where the libraries of the C++ kernels lie, and which of them this processor can run.

A library is built for one of the `LEVELS` of x86-64 rather than for one processor, so that machines of a level compute the same
bits; other processors build for themselves. It lies in `$INSTAR_CACHE`, else `$XDG_CACHE_HOME/instar`, else `~/.cache/instar`, or,
brought by an image, which has no compiler, in `PORTABLE`. Its name holds source and flags: a changed source never meets an
old library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from functools import cache
from pathlib import Path

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
NATIVE = "this processor"


def candidates(source: Path) -> list[tuple[Path, str]]:
    """Return the libraries that would run here, the best first, each with what it is built for."""
    return [
        (path(source, target, folder), target) for target in targets() for folder in (cache_folder(source), PORTABLE)
    ]


@cache
def targets() -> tuple[str, ...]:
    """Return the levels whose instructions this processor has, best first, or `NATIVE` alone."""
    words = set(_processor().decode().split())
    return tuple(level for level, (_, needed) in LEVELS.items() if needed <= words) or (NATIVE,)


def tune(target: str) -> tuple[str, ...]:
    """Return what the compiler is told for a target."""
    if target in LEVELS:
        return LEVELS[target][0]
    return ("-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native",)


def cache_folder(source: Path) -> Path:
    """Return the folder of this user for libraries of `source`."""
    return _cache_folder(os.environ.get("INSTAR_CACHE"), os.environ.get("XDG_CACHE_HOME")) / source.parent.name


@cache
def path(source: Path, target: str, folder: Path) -> Path:
    """Return where the library of `source` for `target` lies in `folder`, built or not."""
    parts = [source.read_bytes(), *(flag.encode() for flag in (*FLAGS, *tune(target)))]
    if target == NATIVE:
        parts.append(_processor())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    return folder / f"{source.parent.name}-{'native' if target == NATIVE else target}-{digest}.so"


@cache
def _cache_folder(folder: str | None, xdg: str | None) -> Path:
    try:
        return Path(folder) if folder else Path(xdg or Path.home() / ".cache") / "instar"
    except RuntimeError:  # a user without an entry and without HOME, as in some containers
        return Path(tempfile.gettempdir(), f"instar-{os.getuid()}")


@cache
def _processor() -> bytes:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(flags))]).encode()


@cache
def exists(path: Path) -> bool:
    """Return whether the file is there; asked once per path, then remembered."""
    try:
        return path.exists()
    except OSError:  # a folder of another user
        return False
