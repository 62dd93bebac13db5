"""C++ kernels without torch headers: how their libraries are built and loaded; `cpp_paths` says where they lie.

A JSON file beside a library names the compiler and its flags; building with another compiler replaces both. Nothing here
needs torch.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from instar import lifeline
from instar.errors import ArtifactError, MissingDependencyError, StorageError
from instar.kernels import cpp_paths

COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True)
class Library:
    """The library of one C++ file; `command` builds it, `instead` says what runs without it."""

    source: Path
    command: str
    instead: str

    def path(self) -> Path:
        """Return where the library that `build` makes lies, built or not."""
        return cpp_paths.path(self.source, cpp_paths.targets()[0], cpp_paths.cache_folder(self.source))

    def found(self) -> tuple[Path, str] | None:
        """Return the library that runs here and what it was built for; None where there is none."""
        return next((pair for pair in cpp_paths.candidates(self.source) if cpp_paths.exists(pair[0])), None)

    def is_built(self) -> bool:
        """Return whether this process has the library."""
        return self.found() is not None

    def load(self) -> ctypes.CDLL:
        """Return the loaded library. Not built is a `MissingDependencyError`, damaged or foreign an `ArtifactError`."""
        built = self.found()
        if built is None:
            raise MissingDependencyError(
                expected=f"the built kernel {self.path()}",
                found="no such file",
                where=self.source.parent.name,
                action=f"run `{self.command}`",
            )
        return _open(built[0], self.command)

    def build(self, compiler: str | None = None) -> Path:
        """Build the best library for this processor unless this compiler already has, and return its path.

        `compiler` is a program, else `$CXX`, else the first of g++, c++ and clang++ on the path. No compiler or a failed call
        is a `MissingDependencyError`, a folder that takes no file a `StorageError`. Processes may build at once.
        """
        return self._build(self.path(), cpp_paths.targets()[0], compiler)

    def build_portable(self, folder: Path, compiler: str | None = None) -> list[Path]:
        """Build the library for every level into `folder`, as `build` does, and return the paths."""
        folder.mkdir(parents=True, exist_ok=True)
        return [self._build(cpp_paths.path(self.source, level, folder), level, compiler) for level in cpp_paths.LEVELS]

    def _build(self, path: Path, target: str, compiler: str | None) -> Path:
        named = compiler or os.environ.get("CXX")
        program = next((p for word in ([named] if named else COMPILERS) if (p := shutil.which(word))), None)
        if program is None:
            raise self._no_build(f"no program {named or ', '.join(COMPILERS)}")
        version = self._run([program, "--version"]).splitlines()[0]
        flags = [*cpp_paths.FLAGS, *cpp_paths.tune(target)]
        made = json.dumps({"compiler": program, "version": version, "flags": flags})
        record = path.with_suffix(".json")
        try:
            if not (path.exists() and record.exists() and record.read_text() == made):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                    self._run([program, *flags, "-o", f"{folder}/made.so", str(self.source)])
                    Path(folder, "made.so").chmod(0o755)
                    Path(folder, "made.json").write_text(made)
                    Path(folder, "made.so").replace(path)
                    Path(folder, "made.json").replace(record)
        except OSError as error:
            raise StorageError(
                expected="a folder for the built kernel",
                found=str(error),
                where=str(path.parent),
                action="name another folder in INSTAR_CACHE",
            ) from error
        cpp_paths.exists.cache_clear()
        _open.cache_clear()
        return path

    def main(self) -> None:
        """Run the command line: `build` builds and prints the path, `path` prints it, `portable FOLDER` builds all levels."""
        parser = argparse.ArgumentParser(description=f"The C++ kernel of {self.source.parent.name}")
        parser.add_argument("command", choices=("build", "path", "portable"))
        parser.add_argument(
            "folder", nargs="?", type=Path, default=cpp_paths.PORTABLE, help="where `portable` puts its libraries"
        )
        given = parser.parse_args()
        match given.command:
            case "build":
                paths = [self.build()]
            case "portable":
                paths = self.build_portable(given.folder)
            case _:
                paths = [self.path()]
        sys.stdout.write("".join(f"{path}\n" for path in paths))

    def _run(self, words: list[str]) -> str:
        try:
            done = subprocess.run(lifeline.held(words), capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._no_build(f"{words[0]}: {error}") from error
        if done.returncode:
            raise self._no_build(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def _no_build(self, found: str) -> MissingDependencyError:
        return MissingDependencyError(
            expected="a C++17 compiler with vector extensions (g++ >= 9 or clang >= 11)",
            found=found,
            where=self.source.parent.name,
            action=f"install one (Debian: `apt-get install g++`) or name it in CXX; without it {self.instead} runs",
        )


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
            expected="a library that this user built",
            found=str(error),
            where=str(path),
            action=f"delete it and run `{command}`",
        ) from error
