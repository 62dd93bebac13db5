"""The code version that enters the ledger: the package's version and a digest of the sources that a run computes with.

Those are the modules of the core, and every Python and C++ file of components, pipelines and kernels. The command line, the
report and the clients of services are left out: a run that goes on with another help text computes the same.
"""

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
        names = [p for s in ("py", "cpp") for p in folder.resolve().glob(f"**/*.{s}" if part else f"*.{s}")]
        for path in sorted(names):
            digest.update(f"{part}/{path.relative_to(folder.resolve())}\0".encode())
            digest.update(path.read_bytes())
    return f"{instar.__version__}+{digest.hexdigest()[:12]}"
