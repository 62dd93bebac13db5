"""Which version of the selective scan runs and why; building and loading the C++ library; mamba-ssm behind its check."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from instar.errors import ArtifactError, ConfigError, MissingDependencyError, StorageError
from instar.kernels import cpp_paths
from instar.kernels.selective_scan import cpp, dispatch, mamba_cuda, reference
from support.scans import case, close

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The C++ library in a folder of its own; no variable of the caller reaches the choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("INSTAR_SCAN", raising=False)
        patch.delenv("INSTAR_SCAN_CPP", raising=False)
        yield cpp.LIBRARY.build()


def _unbuilt(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("INSTAR_CACHE", str(folder))


def test_auto_takes_the_kernel_that_was_asked_for_and_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch.choose(CPU, torch.float32).backend == "sliced"
    assert "INSTAR_SCAN_CPP=1 is not set" in dispatch.choose(CPU, torch.float32).reason
    monkeypatch.setenv("INSTAR_SCAN_CPP", "1")
    assert dispatch.choose(CPU, torch.float32).backend == "cpp"
    double = dispatch.choose(CPU, torch.float64)
    assert double.backend == "sliced" and "not cpp: it has no float64" in double.reason
    assert dispatch.choose(torch.device("meta"), torch.float32).backend == "sliced"


def test_a_library_that_appears_later_does_not_change_the_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: Path
) -> None:
    _unbuilt(monkeypatch, tmp_path)
    assert dispatch.choose(CPU, torch.float32).backend == "sliced"
    cpp.LIBRARY.path().parent.mkdir()
    cpp.LIBRARY.path().write_bytes(built.read_bytes())
    assert dispatch.choose(CPU, torch.float32).backend == "sliced"


def test_the_environment_names_the_backend_of_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_SCAN", "reference")
    assert dispatch.choose(CPU, torch.float32) == dispatch.Choice(backend="reference", reason="named by INSTAR_SCAN")
    assert dispatch.choose(CPU, torch.float32, backend="sliced").reason == "named by the caller"
    monkeypatch.setenv("INSTAR_SCAN", "slided")
    with pytest.raises(ConfigError, match="did you mean 'sliced'"):
        dispatch.choose(CPU, torch.float32)


@pytest.mark.parametrize(
    ("backend", "dtype", "why"),
    [
        ("cpp", torch.float64, "no float64"),
        ("triton", torch.float32, "needs CUDA"),
        ("mamba_ssm", torch.float32, "needs CUDA"),
    ],
)
def test_a_named_backend_runs_or_is_an_error(
    backend: dispatch.Backend, dtype: torch.dtype, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = [None if x is None else x.to(dtype) for x in case((1, 2, 3, 2))]
    with pytest.raises(ConfigError, match=why):
        dispatch.selective_scan(*inputs, backend=backend)  # type: ignore[arg-type]


def test_named_but_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _unbuilt(monkeypatch, tmp_path)
    inputs = [x.float() for x in case((1, 2, 3, 2)) if x is not None]
    with pytest.raises(ConfigError, match="cpp build"):
        dispatch.selective_scan(*inputs, backend="cpp")
    with pytest.raises(MissingDependencyError, match="cpp build"):
        cpp.selective_scan(*inputs)
    monkeypatch.setenv("INSTAR_SCAN_CPP", "1")
    assert dispatch.choose(CPU, torch.float32).backend == "cpp" and cpp.LIBRARY.path().is_relative_to(tmp_path)


def test_cuda_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order and its reasons, with what is installed decided here: no device is needed to choose."""
    monkeypatch.setattr(mamba_cuda, "probe", lambda _device: "")
    monkeypatch.setattr(dispatch, "_triton_missing", lambda: "")
    assert dispatch.choose(CUDA, torch.bfloat16).backend == "triton"
    assert dispatch.choose(CUDA, torch.float64).backend == "sliced"
    with pytest.raises(ConfigError, match="no initial state"):
        dispatch.choose(CUDA, torch.float32, carries_state=True, backend="mamba_ssm")
    with pytest.raises(ConfigError, match="needs the CPU"):
        dispatch.choose(CUDA, torch.float32, backend="cpp")
    monkeypatch.setattr(dispatch, "_triton_missing", lambda: "it does not import (planted)")
    assert dispatch.choose(CUDA, torch.bfloat16).backend == "mamba_ssm"
    carried = dispatch.choose(CUDA, torch.bfloat16, carries_state=True)
    assert carried.backend == "sliced" and "no initial state" in carried.reason
    monkeypatch.setattr(mamba_cuda, "probe", lambda _device: "differs from the reference")
    none = dispatch.choose(CUDA, torch.float32)
    assert none.backend == "sliced" and "planted" in none.reason and "differs" in none.reason


def test_deterministic_mode_passes_over_the_kernel_with_atomics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_cuda, "probe", lambda _device: "")
    monkeypatch.setattr(dispatch, "_triton_missing", lambda: "it does not import (planted)")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    choice = dispatch.choose(CUDA, torch.float32)
    assert choice.backend == "sliced" and "not repeatable" in choice.reason


@pytest.mark.parametrize("backend", ["auto", "reference", "sliced", "cpp"])
def test_dispatch_runs_what_it_chose(backend: dispatch.Backend) -> None:
    inputs = [x.float() for x in case((2, 5, 6, 3)) if x is not None]
    y, last = dispatch.selective_scan(*inputs, backend=backend)
    close([y, last], list(reference.selective_scan(*inputs)), 3e-6)


# --- the library --------------------------------------------------------------------------------------------------


def test_building_again_uses_what_is_there(built: Path) -> None:
    before = built.stat()
    assert cpp.LIBRARY.build() == built and built.stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_mode & 0o022 == 0


def test_another_source_is_another_library(tmp_path: Path, built: Path) -> None:
    source = tmp_path / "scan.cpp"
    source.write_text(cpp.LIBRARY.source.read_text() + "// changed\n")
    library = replace(cpp.LIBRARY, source=source)
    assert library.path() != built and not library.is_built()


def test_a_build_that_fails_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _unbuilt(monkeypatch, tmp_path)
    with pytest.raises(MissingDependencyError, match="apt-get install g"):
        cpp.LIBRARY.build("no-such-compiler")
    source = tmp_path / "scan.cpp"
    source.write_text("this is no C++")
    library = replace(cpp.LIBRARY, source=source)
    with pytest.raises(MissingDependencyError, match=r"ended with 1: .*scan\.cpp"):
        library.build()
    assert not library.path().exists()


def test_a_folder_that_takes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _unbuilt(monkeypatch, tmp_path / "file")
    assert dispatch.choose(CPU, torch.float32).backend == "sliced"
    with pytest.raises(StorageError, match="INSTAR_CACHE"):
        cpp.LIBRARY.build()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number of its own: the choice works, the library would lie in the temporary folder."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("INSTAR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(cpp_paths, "_cache_folder", cpp_paths._cache_folder.__wrapped__)
    assert f"instar-{os.getuid()}" in str(cpp.LIBRARY.path())


@pytest.mark.parametrize("damage", ["truncated", "writable by others"])
def test_a_damaged_or_foreign_library_is_not_loaded(
    damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: Path
) -> None:
    _unbuilt(monkeypatch, tmp_path)
    path = cpp.LIBRARY.path()
    path.parent.mkdir()
    path.write_bytes(built.read_bytes()[: 100 if damage == "truncated" else None])
    path.chmod(0o777 if damage == "writable by others" else 0o755)
    with pytest.raises(ArtifactError, match=str(path)):
        cpp.selective_scan(*[x.float() for x in case((1, 2, 3, 2)) if x is not None])


def test_the_command_line(capsys: pytest.CaptureFixture[str], built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["cpp", "build"])
    cpp.LIBRARY.main()
    assert capsys.readouterr().out == f"{built}\n"
    assert os.environ["INSTAR_CACHE"] in str(built)


# --- mamba-ssm ----------------------------------------------------------------------------------------------------


def _like_mamba(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    """The documented signature on the step loop: [B, E, L] in and out; no gradient through the last state."""
    assert options == {"delta_softplus": False, "return_last_state": True}
    assert A.dtype == torch.float32 and u.dtype == delta.dtype == B.dtype == C.dtype
    rows = [x.transpose(1, 2) for x in (u, delta, B, C)]
    y, last = reference.selective_scan(rows[0], rows[1], A, rows[2], rows[3], D)
    return y.transpose(1, 2), last.detach() + 0 * y.sum()


def test_the_layout_of_mamba_ssm() -> None:
    assert mamba_cuda.check(_like_mamba, CPU) == ""
    inputs = [x.float().requires_grad_() for x in case((2, 5, 6, 3), start=False) if x is not None]
    y, last = mamba_cuda.run(_like_mamba, *inputs)
    close([y, last], list(reference.selective_scan(*inputs)), 1e-6)
    with pytest.raises(ConfigError, match="gradient through the last state"):
        last.sum().backward()


def test_a_wrong_or_broken_mamba_ssm_is_refused() -> None:
    def shifted(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        y, last = _like_mamba(*args, **options)
        return y * 1.001, last

    def broken(*_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        raise RuntimeError("no kernel image is available")

    def silent(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        y, last = _like_mamba(*args, **options)
        return y * math.nan, last

    assert "differs from the reference in y by 1.0e-03" in mamba_cuda.check(shifted, CPU)
    assert "no kernel image" in mamba_cuda.check(broken, CPU)
    assert "in y by nan" in mamba_cuda.check(silent, CPU)


def test_the_probe_never_raises() -> None:
    """The package is absent, or present without its kernel: either way a sentence, not an exception."""
    assert "does not import" in mamba_cuda.probe(CPU)
