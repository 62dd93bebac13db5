"""The limits of a user's code. They are part of the configuration of every stage that runs such code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from instar.config import out_of_range

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
