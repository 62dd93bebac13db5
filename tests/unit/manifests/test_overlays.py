"""The command that `make manifests` runs, on the tree as it is, on spoiled copies of it, and on a site's own overlay."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from manifests import check, pin
from manifests.check import FOLDER, by_reference, examine
from manifests.network import Peer, reaches
from manifests.objects import World
from manifests.tools import render

from instar.errors import ConfigError

OVERLAYS = sorted(p.name for p in (FOLDER / "overlays").iterdir())


def test_the_tree_passes(binary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert OVERLAYS == ["airgap", "gpu-prod", "kind-dev"]
    assert check.main(["--kubectl", str(binary)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in [*OVERLAYS, "1.34, 1.37", "by reference, not rendered here"])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "manifests", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return tmp_path / "manifests"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("components/mlflow/service.yaml", "selector:", "selektor:", "selektor"),
        ("components/mlflow/deployment.yaml", "replicas: 1", "replicas: one", "spec.replicas"),
        ("components/kueue/queues.yaml", "cohortName", "cohort", "cohort"),
        ("components/kueue/flavors.yaml", "H100-80GB", "A100-80GB", "the pool selects NVIDIA-H100-80GB"),
        ("base/rbac.yaml", "resourceNames: [instar-store]\n    verbs: [get]", "verbs: [get, list]", "on secrets"),
    ],
)
def test_a_spoiled_file_is_found(binary: Path, copy: Path, file: str, old: str, new: str, said: str) -> None:
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    report = examine(binary, copy / "overlays" / "gpu-prod")
    assert any(said in f.found for f in report.found)


def test_a_folder_that_does_not_build_is_named(binary: Path, copy: Path) -> None:
    (copy / "base" / "rbac.yaml").unlink()
    with pytest.raises(ConfigError, match=r"rbac\.yaml"):
        render(binary, copy / "overlays" / "airgap")


def test_an_unpinned_overlay_is_not_installable(binary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("gpu-prod", "airgap"):
        assert check.main(["--kubectl", str(binary), "--site", str(FOLDER / "overlays" / name)]) == 1
        assert "the site's own value" in capsys.readouterr().out


def lock(folder: Path, leave_out: str = "") -> Path:
    digests = {n: {"digest": "sha256:" + f"{i:x}" * 64} for i, n in enumerate(check.images(), 1) if n != leave_out}
    (folder / "images.lock").write_text(json.dumps(digests))
    return folder / "images.lock"


def test_a_pinned_site_is_installable(binary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "deploy"
    options = ["--overlay", "gpu-prod", "--registry", "registry.test:5000/team", "--lock", str(lock(tmp_path))]
    store = ["--endpoint", "https://store.test", "--range", "198.51.100.0/24"]
    assert pin.main([str(site), *options, *store]) == 0
    assert check.main(["--kubectl", str(binary), "--site", str(site)]) == 0, capsys.readouterr().out
    objects = render(binary, site)
    text = json.dumps(objects)
    assert "registry.test:5000/team/mlflow@sha256:222" in text and "s3.internal" not in text
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    stage = Peer(namespace="instar", labels={"app.kubernetes.io/component": "update"})
    assert reaches(policies, stage, Peer(address="198.51.100.9"), 443)
    assert not reaches(policies, stage, Peer(address="192.0.2.10"), 443)
    assert pin.main([str(site), *options, *store]) == ConfigError.exit_code, "a site's file was overwritten"


@pytest.mark.usefixtures("binary")
def test_pinning_needs_every_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--overlay", "airgap", "--registry", "r.test", "--lock", str(lock(tmp_path, leave_out="postgres"))]
    assert pin.main([str(tmp_path / "deploy"), *options]) == ConfigError.exit_code
    assert "postgres" in capsys.readouterr().err
    assert not (tmp_path / "deploy" / "kustomization.yaml").exists()


@pytest.mark.parametrize("ref", ["ref=master", "ref=2.17", "", "ref=2.16.0"])
def test_upstream_is_pinned_to_one_release(copy: Path, ref: str) -> None:
    path = copy / "kfp" / "kustomization.yaml"
    assert list(by_reference(path.parent)) == []
    path.write_text(path.read_text().replace("ref=2.17.0", ref, 1))
    assert list(by_reference(path.parent))


def test_the_upstream_credentials_are_deleted() -> None:
    patches = (FOLDER / "kfp" / "delete-credentials.yaml").read_text()
    for name in ("mlpipeline-minio-artifact", "mysql-secret"):
        assert f"name: {name}, namespace: kubeflow" in patches
    assert patches.count("$patch: delete") == 2


def test_every_module_that_somebody_is_told_to_run_exists() -> None:
    root = FOLDER.parent
    told: dict[str, str] = {}
    for path in (p for folder in (FOLDER, root / "docs", root / "README.md") for p in (*folder.rglob("*"), folder)):
        if path.is_file() and path.suffix in (".md", ".py", ".toml", ".txt", ".yaml"):
            found = re.findall(r"python3? -m (\w+(?:\.\w+)*)", path.read_text())
            told |= dict.fromkeys(found, str(path.relative_to(root)))
    assert {"manifests.pin", "manifests.check", "manifests.credentials"} <= set(told)
    assert not {module: file for module, file in told.items() if importlib.util.find_spec(module) is None}


def test_images_toml_names_what_the_overlays_use(overlay: Callable[[str], World]) -> None:
    used = {pin._bare(image) for name in OVERLAYS for image in _images(overlay(name))}
    assert used == set(check.images())


def _images(world: World) -> set[str]:
    from manifests.objects import pods

    return {box["image"] for pod in pods(world.objects) for box in pod.containers}
