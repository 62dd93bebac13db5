"""A copy of the user's files that a sandbox may read: checked against their digests, with their wheels installed beside them.

code.json    entries, digest of every file, Python version, lines of the lock     what `Code` holds
files/       the user's files, by their path in the bundle
wheels/      optional: the wheels of the lock

root/code    copy of files/      root/site    installed wheels      root/work    folder of the process      root/images
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar import plain, wheels
from instar.artifact import Code
from instar.errors import ArtifactError, ProcessError
from instar.store_files import storage_errors

LISTED, FILES, WHEELS = "code.json", "files", "wheels"


@dataclass(frozen=True, kw_only=True)
class CodeFolder:
    """Where a sandbox finds the user's code, and where its process may write."""

    root: Path
    sites: tuple[str, ...]

    @property
    def code(self) -> Path:
        """The copy of the user's files."""
        return self.root / "code"

    @property
    def work(self) -> Path:
        """The folder of the process. It is its home and its folder for temporary files, and is emptied after every call."""
        return self.root / "work"

    @property
    def images(self) -> Path:
        """Images of the rows of a call, a file each."""
        return self.root / "images"


def prepare(code: Code) -> CodeFolder:
    """Verify and copy the files of `code` to a new temporary folder, and install its wheels there."""
    verify(code)
    with storage_errors(Path(tempfile.gettempdir())):
        return _prepared(code, Path(tempfile.mkdtemp(prefix="instar-sandbox-")).resolve())


def _prepared(code: Code, root: Path) -> CodeFolder:
    try:
        for name in ("work", "images"):
            (root / name).mkdir()
        for name in _listed(code).get("files", {}):
            (root / "code" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(code.path / FILES / name, root / "code" / name)
        for file in (root / "code").rglob("*"):
            file.chmod(0o555 if file.is_dir() else 0o444)
        sites = (str(root / "site"),) if (code.path / WHEELS).is_dir() else ()
        if sites:
            install(code, root / "site")
    except BaseException:
        remove(root)
        raise
    return CodeFolder(root=root, sites=sites)


def empty(folder: Path) -> None:
    """Remove everything in a folder, also what its owner made unreadable."""
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            remove(item)
        else:
            item.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a folder, also one whose owner may not write to it. What cannot be removed stays."""
    for path, names, _ in os.walk(folder):
        for inner in (Path(path), *(Path(path, name) for name in names)):
            with contextlib.suppress(OSError):
                if not inner.is_symlink():
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def verify(code: Code) -> None:
    """Raise `ArtifactError` unless `files/` holds exactly the files that `code.json` lists, each with its digest."""
    listed = _listed(code).get("files", {})
    folder = code.path / FILES
    present = {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    if present != listed:
        differ = sorted(name for name in present.keys() | listed.keys() if present.get(name) != listed.get(name))
        raise ArtifactError(
            expected="the files of the bundle, as code.json lists them",
            found=f"{', '.join(differ[:3])}: added, missing or changed",
            where=f"code {code.digest or code.path}",
            action="bundle the code again, or restore the store",
        )


def _listed(code: Code) -> dict[str, Any]:
    listed = plain.loads((code.path / LISTED).read_bytes())
    if isinstance(listed, dict):
        return listed
    raise ArtifactError(
        expected="a JSON object",
        found=type(listed).__name__,
        where=f"{code.digest or code.path}/{LISTED}",
        action="bundle the code again",
    )


def install(code: Code, target: Path) -> None:
    """Unpack the wheels of `code` into `target`. Every wheel has to have a hash that the lock names."""
    try:
        wheels.unpack(code.path / WHEELS, _listed(code).get("requirements", []), target)
    except ValueError as error:
        raise ProcessError(
            expected="wheels that fit this Python and have the hashes of the lock",
            found=str(error),
            where=f"code {code.digest or code.path}/{WHEELS}",
            action="bundle the code again with the lock and the wheels of this Python and platform",
        ) from error


def write_code(folder: Path, files: dict[str, str], entries: list[str]) -> None:
    """Write a bundle by hand: `files` maps a relative path to its text."""
    for name, text in files.items():
        path = folder / FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    listed = {"entries": entries, "files": digests, "python": python, "requirements": []}
    (folder / LISTED).write_text(json.dumps(listed, sort_keys=True, indent=1) + "\n")
