"""How a configuration names code of a user's, and the limits of that code. Both are part of the key of a stage that runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from instar.config import out_of_range
from instar.errors import ConfigError

Permission: TypeAlias = Literal["network", "processes"]


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """What one call of a user's function may use, and what it may do beyond computing."""

    call_s: float = 10.0
    """Most seconds of one call, by the clock."""
    cpu_s: float = 10.0
    """Most seconds of processor time of one call, of all its threads together."""
    memory_mb: int = 2048
    """How many MiB the address space of the process may grow. Every process that it starts may grow as much."""
    file_mb: int = 64
    """Size of the largest file, and of the folder of the process, in MiB."""
    print_kb: int = 1024
    """How many KiB one call may print. What it prints is not kept."""
    allow: tuple[Permission, ...] = ()
    """`network` allows connections. `processes` allows to start programs, which end with the sandbox."""

    def __post_init__(self) -> None:
        """Refuse limits that are not positive."""
        for name in ("call_s", "cpu_s", "memory_mb", "file_mb", "print_kb"):
            if not getattr(self, name) > 0:
                raise out_of_range(f"sandbox.{name}", "> 0", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class UserCode:
    """A function or a class of the user's, and its limits. The code itself is an artifact; this is only its name in there."""

    entry: str
    """FILE.py:NAME inside of the bundle."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)

    def __post_init__(self) -> None:
        """Refuse an entry that is none."""
        check_entry(self.entry)


def check_entry(entry: str) -> None:
    """Raise `ConfigError` unless `entry` has the form FILE.py:NAME."""
    file, _, name = entry.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise ConfigError(
            expected="FILE.py:NAME, a function or a class in a file",
            found=entry,
            where="entry",
            action="write for example rew.py:reward",
        )
