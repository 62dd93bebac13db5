"""How much memory this process may have, and the named error where a library got no more of it. Standard library only.

A limit of the address space (`ulimit -v`) fails an allocation that the machine could serve. Python raises for that; a library may
end the process by signal 6 instead, where only whoever started it can say why (`killed`).
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
"""What libraries say in exceptions of their own: torch, the dynamic linker, thread pools."""
BY_MEMORY = (signal.SIGABRT, signal.SIGBUS, signal.SIGKILL, signal.SIGSEGV)
"""Signals by which a process ends that got no memory: from a library, or from the kernel."""


def address_space_left() -> int | None:
    """Return the bytes that this process may still map, None where that is not limited."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = Path("/proc/self/statm").read_text().split()[0]
    return max(0, limit - int(pages) * resource.getpagesize())


def limits() -> str:
    """Return the limits in force in words; nothing where there is none."""
    found = []
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        found.append(f"address-space limit {limit / 2**30:.2f} GiB (ulimit -v)")
    for file in map(Path, CGROUPS):
        with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
            if (size := int(file.read_text())) < 2**60:
                found.append(f"memory limit {size / 2**30:.2f} GiB (cgroup)")
    return ", ".join(found)


def killed(number: int) -> str:
    """Say that a process was killed by a signal, with the limits it may have reached."""
    names = {int(known): known.name for known in signal.Signals}
    told = limits() if number in BY_MEMORY else ""
    return f"killed by signal {number} ({names.get(number, 'unknown')})" + (f"; {told}" if told else "")


@contextlib.contextmanager
def memory_errors(where: str) -> Iterator[None]:
    """Raise `ConfigError` for whatever exception means that there was no memory left."""
    try:
        yield
    except Exception as error:
        # A package that is installed and could not be mapped is not missing.
        origin = error.__cause__ if isinstance(error, MissingDependencyError) and error.__cause__ else error
        short = isinstance(origin, MemoryError) or getattr(origin, "errno", None) == errno.ENOMEM
        if not short and not (isinstance(origin, RuntimeError | OSError | ImportError) and SHORT.search(str(origin))):
            raise
        said = " ".join(str(origin).split())[:200] or type(origin).__name__
        raise ConfigError(
            expected="memory for this stage",
            found=f"{said}; {limits() or 'no limit but that of the machine'}",
            where=where,
            action="raise the limit, or lower update.micro_batch_tokens, the rows of the engine, or threads",
        ) from error
