"""Files that cannot be written or read are named errors, and leave nothing half done behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.errors import ConfigError, LedgerError, StorageError
from instar.pipelines.argo import write_workflow
from instar.pipelines.kubeflow import compile_tick
from instar.pipelines.pools import Images, load
from instar.pipelines.recipes import build
from instar.workspace import open_workspace

IMAGES = Images(digests={"instar-cpu": "sha256:" + "a" * 64})


@pytest.mark.parametrize("target", ["missing/x.yaml", "folder"])
def test_a_package_that_cannot_be_written(target: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    out = tmp_path / target
    with pytest.raises(StorageError, match=out.name):
        compile_tick(load("kind-dev"), IMAGES, out)
    with pytest.raises(StorageError, match=out.name):
        write_workflow(build("sec", "tiny"), load("kind-dev"), IMAGES, out)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".yaml"] == []


@pytest.mark.parametrize("text", ["", "[]", "null", '{"evolution": 5, "store": 7}', '{"evolution": "x"}'])
def test_a_damaged_directory(text: str, tmp_path: Path) -> None:
    (tmp_path / "evolution.json").write_text(text)
    with pytest.raises(LedgerError, match="evolution directory"):
        open_workspace(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"host": 1, "namespace": 2}'])
def test_a_damaged_handle(text: str, tmp_path: Path) -> None:
    from instar.cli import cluster

    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        cluster.server_of(tmp_path)


def test_commands_for_a_cluster_point_to_those_for_this_machine(tmp_path: Path) -> None:
    from instar.cli import cluster

    with pytest.raises(ConfigError, match="instar show"):
        cluster.server_of(tmp_path)


def test_the_argo_export_has_no_segments_to_choose(tmp_path: Path) -> None:
    from instar.cli import cluster

    where = cluster.Target(profile=load("kind-dev"), images=IMAGES)
    with pytest.raises(ConfigError, match="engine argo"):
        cluster.compile_recipe(build("sec", "tiny"), "begin", where, tmp_path / "x.yaml", "argo")
