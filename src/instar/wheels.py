"""Requirements of code that a user brings: a lock with hashes, and the wheels that it names.

    sympy==1.14.0 --hash=sha256:e091cc3e...          a line of the lock
    wheels/sympy-1.14.0-py3-none-any.whl             what pip downloads for it, into the bundle

Only wheels are taken. A source archive would run its own code when it is installed. pip checks every hash, and the digest of
every wheel stands in `code.json`, so a machine without a network can install them later.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

from instar.errors import ConfigError
from instar.manifest import file_sha256
from instar.plain import brief

_PIN = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]+\])?==[^\s;]+(\s*;[^#]*?)?(\s+--hash=sha256:[0-9a-f]{64})+"
)
_NOT_MODULES = (".dist-info", ".data", ".libs")


def read_lock(path: Path) -> list[str]:
    """Return the requirements of a lock, one a line, without comments. Every one must have a version and hashes."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            expected="a requirements file in UTF-8",
            found=f"{type(error).__name__}: {brief(str(error))}",
            where=str(path),
            action="correct the path, or write the lock again",
        ) from error
    requirements: list[str] = []
    parts: list[str] = []
    began = 1
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        began = began if parts else number
        parts.append(line.removesuffix("\\").strip())
        if line.endswith("\\"):
            continue
        if requirement := " ".join(part for part in parts if part):
            requirements.append(_pinned(requirement, f"{path}:{began}"))
        parts = []
    return requirements


def _pinned(requirement: str, where: str) -> str:
    if not _PIN.fullmatch(requirement):
        raise ConfigError(
            expected="NAME==VERSION --hash=sha256:..., and no other option",
            found=brief(requirement),
            where=where,
            action="write the lock with `uv pip compile --generate-hashes` or `pip-compile --generate-hashes`",
        )
    return requirement


def download(lock: Path, folder: Path) -> dict[str, str]:
    """Download the wheels of a lock into `folder`. Return name -> SHA-256. pip takes its index from its own configuration."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--require-hashes", "--only-binary", ":all:", "--dest", str(folder), "--requirement", str(lock)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise ConfigError(
            expected="a wheel for this Python and this kind of machine for every line of the lock, with one of its hashes",
            found=next(
                (line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no output of pip"
            ),
            where=str(lock),
            action="lock versions that have wheels, with all that they need themselves; or correct the index of pip",
        )
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.whl"))}


def modules(folder: Path) -> set[str]:
    """Return the names under which the wheels in `folder` are imported. Nothing is installed or run."""
    names = set()
    for wheel in folder.glob("*.whl"):
        for member in zipfile.ZipFile(wheel).namelist():
            top = PurePosixPath(member).parts[0]
            if not top.endswith(_NOT_MODULES):
                names.add(top.partition(".")[0])
    return names
