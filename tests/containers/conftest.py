"""An engine and the CPU image, for the tests of this folder: found if there are any, made if not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SKIP = 77
"""Exit code of engine.sh on a machine that cannot run an engine: no reason to fail there, but CI has one."""


BUILD_S, TEST_S = 3600, 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test here has its own time alone: starting an engine and building the image, minutes on a busy machine, are not in it."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_S, func_only=True))


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[str]:
    """Give the value of DOCKER_HOST, and set it: the one given, this machine's engine, or a private one made here."""
    if host := os.environ.get("DOCKER_HOST"):
        yield host
        return
    local = "unix:///var/run/docker.sock"
    if answers(local):
        yield from published(local)
        return
    folder = Path(tempfile.mkdtemp(prefix="instar-engine-", dir="/tmp"))
    script = str(ROOT / "images/engine.sh")
    started = subprocess.run(
        [script, "start", str(folder)], capture_output=True, text=True, check=False, timeout=BUILD_S
    )
    try:
        if started.returncode == SKIP and not os.environ.get("CI"):
            pytest.skip(started.stderr.strip())
        assert started.returncode == 0, started.stderr
        yield from published(started.stdout.strip())
    finally:
        subprocess.run([script, "stop", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the CPU image: the one named by INSTAR_IMAGE, or one built from this checkout."""
    if given := os.environ.get("INSTAR_IMAGE"):
        return given
    out = tmp_path_factory.mktemp("images")
    built = subprocess.run(
        [str(ROOT / "images/build.sh"), "cpu", str(out)], capture_output=True, text=True, check=False, timeout=BUILD_S
    )
    assert built.returncode == 0, f"{engine}\n{built.stderr[-4000:]}"
    return built.stdout.split()[-1]


def published(host: str) -> Iterator[str]:
    """Set DOCKER_HOST for everything these tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        yield host


def answers(host: str) -> bool:
    """Return whether an engine is behind this address."""
    import docker
    from docker.errors import DockerException

    try:
        client: Any = docker.DockerClient(base_url=host, timeout=5)
        with contextlib.closing(client):
            return bool(client.ping())
    except DockerException:
        return False
