"""Requirements of code that a user brings: a lock with hashes, and the wheels that it names.

    sympy==1.14.0 --hash=sha256:e091cc3e...          a line of the lock
    wheels/sympy-1.14.0-py3-none-any.whl             what pip downloads for it, into the bundle

Only wheels are taken. A source archive would run its own code when it is installed. pip checks every hash, and the digest of
every wheel stands in `code.json`. They are unpacked later on a machine without a network and without pip, as in our images.
"""

from __future__ import annotations

import platform
import re
import shutil
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
_NAME = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[.*?\])?==(?P<version>[^\s;]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SYSTEMS = {"linux": ("manylinux", "linux"), "darwin": ("macosx",)}
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


def unpack(folder: Path, requirements: list[str], target: Path) -> None:
    """Unpack the wheels in `folder` into `target`, from which they can be imported. Nothing of them is run.

    Raises `ValueError` for a wheel without a hash in the lock, for one that is not for this machine, and for a line of the lock
    that has no wheel. A line with a marker, such as `; python_version < "3.11"`, may have none.
    """
    target.mkdir(parents=True)
    hashes = {digest for line in requirements for digest in _HASH.findall(line)}
    present = set()
    for wheel in sorted(folder.glob("*.whl")):
        if (digest := file_sha256(wheel)) not in hashes:
            raise ValueError(f"{wheel.name} with sha256 {digest[:12]}, which the lock does not name")
        if not fits(wheel.name):
            raise ValueError(f"{wheel.name} on Python {platform.python_version()}, {sys.platform} {platform.machine()}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
        name, version = wheel.name.split("-")[:2]
        present.add(f"{_normal(name)}=={version}")
    for data in target.glob("*.data"):
        for part in (data / "purelib", data / "platlib"):
            if part.is_dir():
                shutil.copytree(part, target, dirs_exist_ok=True)
    for line in requirements:
        pin = _NAME.match(line)
        if pin and ";" not in line and f"{_normal(pin['name'])}=={pin['version']}" not in present:
            raise ValueError(f"no wheel of {pin['name']}=={pin['version']}")


def fits(name: str) -> bool:
    """Return whether a wheel of this file name is for this Python and this kind of machine."""
    pythons, abi, platforms = name.removesuffix(".whl").split("-")[-3:]
    here = f"{sys.version_info.major}{sys.version_info.minor}"
    known = {f"py{sys.version_info.major}", f"py{here}", f"cp{here}"}
    python = abi == "abi3" or any(tag in known for tag in pythons.split("."))
    system, machine = _SYSTEMS.get(sys.platform, ()), (platform.machine(), "universal2")
    return python and any(
        tag == "any" or (tag.startswith(system) and tag.endswith(machine)) for tag in platforms.split(".")
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
