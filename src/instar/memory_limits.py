"""How much memory this process may have, and the named error when memory runs out. Standard library only.

A limit of the address space (`ulimit -v`) makes an allocation fail even if the machine has free memory. Python then raises an
exception. A library may end the process with signal 6 instead. Then only the parent process can report the cause (`killed`).
"""

from __future__ import annotations

import contextlib
import errno
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from instar.errors import ConfigError, MissingDependencyError

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
SHORT = re.compile(
    r"out of memory|not enough memory|can(no|')t allocate memory|can't start new thread|failed to map segment",
    re.IGNORECASE,
)
"""Texts by which the exceptions of libraries say that memory ran out: torch, the dynamic linker, thread pools."""
BY_MEMORY = (signal.SIGABRT, signal.SIGBUS, signal.SIGKILL, signal.SIGSEGV)
"""Signals that end a process without memory. A library or the kernel sends them."""


def address_space_left() -> int | None:
    """Return how many more bytes this process may map, or None if there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = Path("/proc/self/statm").read_text().split()[0]
    return max(0, limit - int(pages) * resource.getpagesize())


def limits() -> str:
    """Return the memory limits of this process in words, or an empty text if there are none."""
    texts = []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        texts.append(f"address-space limit {limit / 2**30:.2f} GiB (ulimit -v)")
    for file in map(Path, CGROUPS):
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says `max`
            if (size := int(file.read_text())) < 2**60:
                texts.append(f"memory limit {size / 2**30:.2f} GiB (cgroup)")
    return ", ".join(texts)


def killed(number: int) -> str:
    """Return a text that says which signal killed a process, and which limits it may have reached."""
    names = {int(known): known.name for known in signal.Signals}
    told = limits() if number in BY_MEMORY else ""
    return f"killed by signal {number} ({names.get(number, 'unknown')})" + (f"; {told}" if told else "")


@contextlib.contextmanager
def memory_errors(where: str) -> Iterator[None]:
    """Raise `ConfigError` for every exception that means that memory ran out."""
    try:
        yield
    except Exception as error:
        # An ImportError is no missing package if the package is installed and could not be mapped into memory.
        origin = error.__cause__ if isinstance(error, MissingDependencyError) and error.__cause__ else error
        short = isinstance(origin, MemoryError) or getattr(origin, "errno", None) == errno.ENOMEM
        if not short and not (isinstance(origin, RuntimeError | OSError | ImportError) and SHORT.search(str(origin))):
            raise
        said = " ".join(str(origin).split())[:200] or type(origin).__name__
        raise ConfigError(
            expected="enough memory for this stage",
            found=f"{said}; {limits() or 'no limit except that of the machine'}",
            where=where,
            action="raise the limit, or lower update.micro_batch_tokens, the rows of the engine, or threads",
        ) from error
