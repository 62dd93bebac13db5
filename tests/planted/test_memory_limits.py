"""Row 37, no memory left: an exception of whichever library asked for it, or a process that ends by a signal without a word."""

from __future__ import annotations

import errno
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar import memory_limits
from instar.cli.commands import say_limits
from instar.components.update import memory
from instar.errors import ConfigError, InstarError, MissingDependencyError
from instar.memory_limits import address_space_left, memory_errors
from instar.pipelines.supervise.watchdog import child_error

GIB = 2**30
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B"


@pytest.fixture
def limited() -> Iterator[int]:
    """Let this process map 64 GiB more; nothing here comes near."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 64 * GIB
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    yield size
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(ALLOCATOR),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_way_to_say_it_is_one_named_error(error: Exception, limited: int) -> None:
    with pytest.raises(ConfigError) as caught, memory_errors("stage update"):
        raise error
    assert f"address-space limit {limited / GIB:.2f} GiB (ulimit -v)" in caught.value.found
    assert caught.value.where == "stage update" and caught.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("memory"), OSError(errno.ENOSPC, "full")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors("stage update"):
        raise error
    assert caught.value is error


def test_a_package_that_could_not_be_mapped_is_not_missing() -> None:
    with pytest.raises(ConfigError, match="failed to map"), memory_errors("stage dataset_prep"):
        try:
            raise ImportError("_sparsetools.so: failed to map segment from shared object")
        except ImportError as error:
            raise MissingDependencyError(expected="x", found=str(error), where="y", action="install it") from error


def test_named_errors_pass() -> None:
    told = ConfigError(expected="a", found="out of memory", where="b", action="c")
    with pytest.raises(InstarError) as caught, memory_errors("stage update"):
        raise told
    assert caught.value is told


def test_a_stage_that_a_signal_ended_names_signal_and_limit(tmp_path: Path, limited: int) -> None:
    """Planted: `exit code -6; no output`."""
    log = tmp_path / "stage.log"
    log.write_text("terminate called after throwing an instance of 'std::bad_alloc'\n")
    error = child_error(tmp_path / "none.json", "update", -int(signal.SIGABRT), log)
    told = f"killed by signal 6 (SIGABRT); address-space limit {limited / GIB:.2f} GiB (ulimit -v)"
    assert error.found.startswith(told) and "std::bad_alloc" in error.found
    assert child_error(tmp_path / "none.json", "update", 9, log).found.startswith("exit code 9; ")


def test_a_signal_that_memory_does_not_send_is_not_blamed_on_it(limited: int) -> None:
    assert limited and memory_limits.killed(15) == "killed by signal 15 (SIGTERM)"


def test_a_supervisor_names_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    supervise = f"{sys.executable} -m instar supervise -- sh -c 'kill -ABRT $$'"
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v 4194304; INSTAR_TERMINATION_LOG={log} {supervise}"], capture_output=True, check=False
    )
    assert done.returncode == 134
    assert "signal 6 (SIGABRT); address-space limit 4.00 GiB (ulimit -v)" in json.loads(log.read_text())["found"]


def test_what_may_be_mapped_bounds_the_plan_of_an_update(limited: int, capsys: pytest.CaptureFixture[str]) -> None:
    left = address_space_left()
    assert left is not None and left <= 64 * GIB < limited
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limited - 64 * GIB + GIB, hard))
    try:
        assert memory.available_bytes("cpu") <= GIB
        say_limits()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limited, hard))
    assert "note: address-space limit" in capsys.readouterr().out


def test_a_library_that_aborts_says_where() -> None:
    """The command line lets Python write its stacks when a signal ends it."""
    program = "import ctypes; from instar.cli import app; app.app = lambda: ctypes.CDLL(None).abort(); app.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT and b"Fatal Python error: Aborted" in done.stderr
