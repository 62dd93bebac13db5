"""Code of a user for tests: a bundle that is written by hand, and sandboxes with small limits."""

from __future__ import annotations

from pathlib import Path

from instar.artifact import Code
from instar.components.sandbox.code_folder import write_code
from instar.components.sandbox.config import SandboxConfig

SHORT = SandboxConfig(call_s=20.0, cpu_s=0.3, memory_mb=256, file_mb=1, print_kb=8)
"""Limits that a test can wait for. The time by the clock is long, because tests share the cores."""


def brought(folder: Path, text: str, name: str = "rew.py", **more: str) -> Code:
    """Return a bundle with one file, and others by their path with `__` for `/` and `_py` for `.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    others = {key.replace("__", "/").removesuffix("_py") + ".py": content for key, content in more.items()}
    write_code(folder, {name: text, **others}, [])
    return Code(folder, f"digest-of-{folder.name}")
