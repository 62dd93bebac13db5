"""The code version that enters the ledger: package version plus a digest of every Python source file."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import instar


@cache
def code_version() -> str:
    """Return for example `0.1.0+3f2a9c01d4e5`. Equal sources give equal versions wherever they are installed."""
    root = Path(instar.__file__).parent
    digest = hashlib.sha256()
    for part in ("", "components", "pipelines", "kernels"):
        folder = root / part
        pattern = "**/*.py" if part else "*.py"
        for path in sorted(folder.resolve().glob(pattern)):
            digest.update(f"{part}/{path.relative_to(folder.resolve())}\0".encode())
            digest.update(path.read_bytes())
    return f"{instar.__version__}+{digest.hexdigest()[:12]}"
