"""The libraries an image brings: one per level of x86-64, of which the best that runs here is taken, and the right one."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from instar.errors import MissingDependencyError
from instar.kernels import cpp_paths
from instar.kernels.cpp_paths import LEVELS, path
from instar.kernels.selective_scan import cpp, reference
from support.scans import case, close

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the levels are those of x86-64")
SOURCE = cpp.LIBRARY.source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries of every level, as an image build makes them."""
    folder = tmp_path_factory.mktemp("image") / "share"
    assert cpp.LIBRARY.build_portable(folder) == [path(SOURCE, level, folder) for level in LEVELS]
    return folder


@pytest.fixture(autouse=True)
def image(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation that has those libraries and none of its own, on a processor that the test names."""
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path))
    monkeypatch.setattr(cpp_paths, "PORTABLE", folder)
    cpp_paths.exists.cache_clear()
    yield
    cpp_paths.exists.cache_clear()
    cpp_paths.targets.cache_clear()


def _on(monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    monkeypatch.setattr(cpp_paths, "_processor", lambda: f"flags : {flags}".encode())
    cpp_paths.targets.cache_clear()
    cpp_paths.path.cache_clear()


V3 = "fpu sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (f"{V4} avx512_bf16 amx_tile", "x86-64-v4-bf16"),
        (V4, "x86-64-v4"),
        (f"{V3} avx512_bf16", "x86-64-v3"),
        (V4.replace(" avx512vl", ""), "x86-64-v3"),
        (V3, "x86-64-v3"),
        (V3.replace(" fma", ""), None),
        ("asimd fp", None),
    ],
)
def test_a_processor_gets_the_best_level_that_it_can_run(
    flags: str, level: str | None, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    _on(monkeypatch, flags)
    assert cpp.LIBRARY.found() == (None if level is None else (path(SOURCE, level, folder), level))
    if level is None:
        with pytest.raises(MissingDependencyError):
            cpp.LIBRARY.load()


def test_every_level_that_runs_here_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [x.float() for x in case((2, 37, 6, 16)) if x is not None]
    wanted, here = list(reference.selective_scan(*inputs)), cpp_paths.targets()
    for level in here:
        _on(monkeypatch, " ".join(LEVELS[level][1]))
        assert (cpp.LIBRARY.found() or ("", ""))[1] == level
        close(list(cpp.selective_scan(*inputs)), wanted, 3e-6)


def test_what_the_user_built_comes_before_what_the_image_brought_and_computes_the_same_bits() -> None:
    inputs = [x.float() for x in case((2, 37, 6, 16)) if x is not None]
    brought, level = cpp.LIBRARY.found() or (None, "")
    before = cpp.selective_scan(*inputs)
    own = cpp.LIBRARY.build()
    assert cpp.LIBRARY.found() == (own, level) and own != brought
    assert all(torch.equal(a, b) for a, b in zip(cpp.selective_scan(*inputs), before, strict=True))


def test_a_processor_of_no_level_builds_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    _on(monkeypatch, "sse4_2")
    path = cpp.LIBRARY.build()
    assert cpp.LIBRARY.found() == (path, "this processor") and "native" in path.name
    _on(monkeypatch, "sse4_2 another")
    assert not cpp.LIBRARY.is_built()


def test_libraries_of_another_source_are_not_used(tmp_path: Path) -> None:
    changed = tmp_path / SOURCE.parent.name / SOURCE.name
    changed.parent.mkdir()
    changed.write_text(SOURCE.read_text() + "// changed\n")
    assert not type(cpp.LIBRARY)(source=changed, command="", instead="").is_built()


def test_every_user_may_read_them(folder: Path) -> None:
    assert folder.stat().st_mode & 0o055 == 0o055
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in folder.iterdir())
    assert len(list(folder.iterdir())) == 2 * len(LEVELS)
