"""An output that a stage leaves empty means none for the next one, where every task has its own container.

The image is the one of the other tests with two changed source files; the process that compiles the pipelines has them, too.
"""

from __future__ import annotations

import io
import py_compile
import tarfile
from pathlib import Path

import docker
import pytest

from support import scratch
from support.toy_entry import FILLED, REPLAY

pytestmark = pytest.mark.containers
SITE = "/opt/instar/lib/python3.11/site-packages/instar"


def archive(tree: Path) -> bytes:
    """Return the changed files of a copy of the sources, compiled as well: an image trusts what it has compiled."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in REPLAY:
            inside = name.removeprefix("src/instar/")
            compiled = Path(inside).parent / "__pycache__" / f"{Path(inside).stem}.cpython-311.pyc"
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            target = py_compile.compile(str(tree / name), str(tree / "compiled.pyc"), inside, invalidation_mode=mode)
            assert target is not None
            tar.add(tree / name, inside)
            tar.add(target, str(compiled))
    return buffer.getvalue()


@pytest.fixture
def changed(engine: str, image: str, tmp_path: Path) -> tuple[Path, str]:
    """Return a copy of the sources with the toy entry, and an image with the same changes."""
    tree = scratch.copy(tmp_path / "tree", REPLAY)
    client = docker.DockerClient(base_url=engine)
    container = client.containers.create(image, command=["true"])
    try:
        assert container.put_archive(SITE, archive(tree))
        return tree, str(container.commit().id)
    finally:
        container.remove(force=True)


def test_an_output_left_empty_means_none(
    changed: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, image = changed
    monkeypatch.setenv("INSTAR_IMAGE", image)
    here = scratch.run(tree, "support.carrying", "in_process", "rounds", str(tmp_path / "here"), "replay")
    there = scratch.run(tree, "support.carrying", "containers", "rounds", str(tmp_path / "there"), "replay")
    assert there["calls"] == here["calls"] and len(there["rows"]) == FILLED[5]
