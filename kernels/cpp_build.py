"""C++ kernels without torch headers: where their libraries lie, how they are built and loaded.

A library lies in `$INSTAR_CACHE`, else `$XDG_CACHE_HOME/instar`, else `~/.cache/instar`, under a name made of source, flags
and processor, so that another processor or a changed source never meets an old library. A JSON file beside it names the
compiler; building with another compiler replaces both. Nothing here needs torch.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from instar.errors import ArtifactError, MissingDependencyError, StorageError

TUNE = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"
FLAGS = ("-std=gnu++17", "-O3", TUNE, "-ffp-contract=fast", "-fPIC", "-shared", "-pthread")
COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True)
class Library:
    """The library of one C++ file; `command` builds it, `instead` says what runs without it."""

    source: Path
    command: str
    instead: str

    def path(self) -> Path:
        """Return where the library of this source, these flags and this processor lies, built or not."""
        return _path(os.environ.get("INSTAR_CACHE"), os.environ.get("XDG_CACHE_HOME"), self.source)

    def is_built(self) -> bool:
        """Return whether this process has the library; asked once for each path, then remembered."""
        return _exists(self.path())

    def load(self) -> ctypes.CDLL:
        """Return the loaded library. Not built is a `MissingDependencyError`, damaged or foreign an `ArtifactError`."""
        if not self.is_built():
            raise MissingDependencyError(
                expected=f"the built kernel {self.path()}", found="no such file", where=self.source.parent.name,
                action=f"run `{self.command}`",
            )  # fmt: skip
        return _open(self.path(), self.command)

    def build(self, compiler: str | None = None) -> Path:
        """Build the library unless this compiler already has, and return its path.

        `compiler` is a program, else `$CXX`, else the first of g++, c++ and clang++ on the path. No compiler or a failed call
        is a `MissingDependencyError`, a folder that takes no file a `StorageError`. Processes may build at once.
        """
        named = compiler or os.environ.get("CXX")
        program = next((p for word in ([named] if named else COMPILERS) if (p := shutil.which(word))), None)
        if program is None:
            raise self._no_build(f"no program {named or ', '.join(COMPILERS)}")
        version = self._run([program, "--version"]).splitlines()[0]
        made = json.dumps({"compiler": program, "version": version, "flags": list(FLAGS)})
        path = self.path()
        record = path.with_suffix(".json")
        try:
            if not (path.exists() and record.exists() and record.read_text() == made):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                    self._run([program, *FLAGS, "-o", f"{folder}/made.so", str(self.source)])
                    Path(folder, "made.so").chmod(0o755)
                    Path(folder, "made.json").write_text(made)
                    Path(folder, "made.so").replace(path)
                    Path(folder, "made.json").replace(record)
        except OSError as error:
            raise StorageError(
                expected="a folder for the built kernel", found=str(error), where=str(path.parent),
                action="name another folder in INSTAR_CACHE",
            ) from error  # fmt: skip
        _exists.cache_clear()
        _open.cache_clear()
        return path

    def main(self) -> None:
        """Run the command line: `build` builds and prints the path of the library, `path` only prints it."""
        parser = argparse.ArgumentParser(description=f"The C++ kernel of {self.source.parent.name}")
        parser.add_argument("command", choices=("build", "path"))
        path = self.build() if parser.parse_args().command == "build" else self.path()
        sys.stdout.write(f"{path}\n")

    def _run(self, words: list[str]) -> str:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._no_build(f"{words[0]}: {error}") from error
        if done.returncode:
            raise self._no_build(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def _no_build(self, found: str) -> MissingDependencyError:
        return MissingDependencyError(
            expected="a C++17 compiler with vector extensions (g++ >= 9 or clang >= 11)", found=found,
            where=self.source.parent.name,
            action=f"install one (Debian: `apt-get install g++`) or name it in CXX; without it {self.instead} runs",
        )  # fmt: skip


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
