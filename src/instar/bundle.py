"""Bundles: the code that a user brings becomes the folder of a `Code` artifact. Nothing of it is imported or run here.

    rew.py:reward ──►  code.json           entries, digests of all files, version of Python, requirements
                       files/rew.py        the file of the entry
                       files/helper.py     what it imports from its own folder, and so on
                       wheels/*.whl        what its lock names

Equal sources give equal bytes wherever they lie: paths are relative to the folder from which the code imports. A file that has
an entry in a package, such as `rewards/style.py` beside `rewards/__init__.py`, stays in that package.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar import wheels
from instar.errors import ConfigError
from instar.terminal import warn
from instar.user_imports import (
    IMAGES,
    Import,
    Module,
    check_name,
    defined,
    imports,
    line_that_runs,
    parse,
    refused,
    resolve,
)

LARGE = 2**20
"""Bytes of a file above which `large` must be given. A bundle is fetched by every pod."""


def bundle(
    entries: Sequence[str],
    folder: Path,
    *,
    requirements: Path | str | None = None,
    data: Sequence[Path | str] = (),
    large: bool = False,
) -> list[str]:
    """Write the bundle of `entries`, such as `rew.py:reward`, into `folder`. Return the entries relative to its root.

    `requirements` is a lock with hashes, whose wheels are downloaded. `data` are further files that the code reads; they lie in
    the folders of the entries. Raises `ConfigError` with the reason, the file and the line if the code cannot be bundled.
    """
    wanted = [_split(entry) for entry in entries]
    lines, digests, names = [], {}, set(IMAGES)
    if requirements is not None:
        lines = wheels.read_lock(Path(requirements))
        (folder / "wheels").mkdir(parents=True)
        digests = wheels.download(Path(requirements), folder / "wheels") if lines else {}
        names |= wheels.modules(folder / "wheels")
    collected = _Collected(roots := [import_root(path) for path, _ in wanted], _base(roots), names, large)
    for path, name in wanted:
        collected.add_entry(path, name)
    for file in data:
        collected.add_data(Path(file).absolute())
    relative = [f"{collected.relative(path)}:{name}" for path, name in wanted]
    collected.write(folder / "files")
    about = {
        "entries": relative,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in collected.files.items()},
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "requirements": lines,
        "wheels": digests,
    }
    (folder / "code.json").write_text(json.dumps(about, sort_keys=True, indent=1) + "\n")
    return relative


def import_root(path: Path) -> Path:
    """Return the folder that must be on the search path to import the file `path`: the first one above that is no package.

    The same holds for an unpacked bundle: the folder is a function of the files alone.
    """
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return folder


def module_name(path: Path) -> str:
    """Return the dotted name under which the file `path` is imported from its `import_root`."""
    parts = path.relative_to(import_root(path)).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def entry_of(value: Callable[..., Any] | type) -> str:
    """Return the entry of a function or class that was imported from a file: its absolute path and its name.

    What only exists in memory is refused: a lambda, a closure, a method, and what a notebook or the prompt defined.
    """
    value = inspect.unwrap(value)  # the function itself below its decorators
    name = getattr(value, "__qualname__", type(value).__qualname__)
    where = f"{getattr(value, '__module__', '?')}.{name}"
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        action = "give a plain function, `def`, or a class that stands in a file"
        raise refused("a function or a class", f"a {type(value).__name__}", where, action)
    if name.endswith("<lambda>"):
        raise refused("a function with a name", "a lambda", where, "write it with `def` in a file")
    if "<locals>" in name or getattr(value, "__closure__", None):
        action = "move it to module level of a file; what it reads from around it becomes an argument or a constant"
        raise refused("a function at module level", "a closure, or a function inside of a function", where, action)
    if "." in name:
        raise refused("a function at module level", f"'{name}' inside of a class", where, "move it out of the class")
    path = _file_of(value)
    if path is None:
        action = f"save it to a file, for example rew.py, and give it as `from rew import {name}` or as 'rew.py:{name}'"
        raise refused("a function or class from a file", "one from a notebook or from the prompt", where, action)
    tree = parse(path.read_bytes(), path)
    check_name(tree, name, path, set())
    if value.__module__ == "__main__" and (line := line_that_runs(tree, "instar")):
        raise refused(
            "a file that can be imported without starting a run",
            f"a script whose line {line} calls instar, so importing '{name}' from it would start the run once more",
            f"{path}:{line}",
            f"put '{name}' into a file of its own, or the calls below `if __name__ == \"__main__\":`",
        )
    return f"{path}:{name}"


def _file_of(value: Callable[..., Any] | type) -> Path | None:
    """Return the file in which a function or class was written, or None if it was typed into a notebook or at the prompt."""
    module = sys.modules.get(value.__module__)
    code = getattr(value, "__code__", None)
    name = code.co_filename if code is not None else getattr(module, "__file__", None)
    if name is None or getattr(module, "__file__", None) is None:
        return None
    path = Path(name).absolute()
    return path if path.suffix == ".py" and path.is_file() else None


def _split(entry: str) -> tuple[Path, str]:
    """Return the file and the name of an entry."""
    file, separator, name = entry.rpartition(":")
    if not separator or not name.isidentifier() or keyword.iskeyword(name) or not file.endswith(".py"):
        action = "write for example rew.py:reward"
        raise refused("FILE.py:NAME", entry, "entry", action)
    path = Path(os.path.normpath(Path(file).absolute()))
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        action = f"correct the path; Python files there: {', '.join(others[:10]) or 'none'}"
        raise refused("a file", "no such file", str(path), action)
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in module_name(path).split(".")):
        action = "rename it: letters, digits and '_', as in my_reward.py"
        raise refused("a file that Python can import by its name", path.name, str(path), action)
    return path, name


def _base(roots: Sequence[Path]) -> Path:
    """Return the root of the bundle: the folder of one entry that holds the others, or the folder that holds all of theirs."""
    if not roots:
        raise refused("at least one entry", "none", "entries", "name a function or class, as in rew.py:reward")
    base = Path(os.path.commonpath(roots))
    if base not in roots and any(root.parent != base for root in roots):
        raise refused(
            "entries from one folder, or from folders side by side",
            ", ".join(map(str, dict.fromkeys(roots))),
            "entries",
            "move the files together",
        )
    return base


@dataclass
class _Collected:
    """The files of a bundle while they are collected. `outside` are names of packages that need no file."""

    roots: list[Path]
    base: Path
    outside: set[str]
    large: bool
    files: dict[str, bytes] = field(default_factory=dict)

    def add_entry(self, path: Path, name: str) -> None:
        """Take the file of an entry, and check that it has the name."""
        module = Module(path, import_root(path), module_name(path))
        modules = self._modules(Import(module=module.name, line=1), module)
        if module not in modules:
            action = f"rename one of them, because `import {module.name}` gives the folder"
            raise refused("one file of that name", f"{path} and {modules[-1].path}", str(path), action)
        tree, starred = parse(self._read(path), path), set[str]()
        for one in imports(tree):
            for inner in self._modules(one, module) if one.names == ("*",) else []:
                starred |= set(defined(parse(self._read(inner.path), inner.path).body))
        check_name(tree, name, path, starred)
        for one_file in modules:
            self._add(one_file)

    def add_data(self, path: Path) -> None:
        """Take a file that the code reads."""
        if not path.is_file():
            raise refused("a file", "no such file", str(path), "correct the path")
        name = self.relative(path)
        self.files[name] = self._read(path)

    def relative(self, path: Path) -> str:
        """Return the path inside of the bundle."""
        try:
            return path.relative_to(self.base).as_posix()
        except ValueError:
            where, action = str(path), f"move or copy it to {self.base}"
            raise refused("a file in the folder of the entries", "a file elsewhere", where, action) from None

    def write(self, folder: Path) -> None:
        """Write all files below `folder`."""
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)

    def _add(self, module: Module) -> None:
        """Take a file and what it imports."""
        name = self.relative(module.path)
        if name in self.files:
            return
        self.files[name] = self._read(module.path)
        for wanted in imports(parse(self.files[name], module.path)):
            for inner in self._modules(wanted, module):
                self._add(inner)

    def _modules(self, wanted: Import, module: Module) -> list[Module]:
        try:
            return resolve(wanted, module, list(dict.fromkeys(self.roots)), self.outside)
        except ConfigError as error:
            if not wanted.guarded:
                raise
            warn(f"warning: {error.where}: `{wanted}` will fail, and the code goes on without it\n")
            return []

    def _read(self, path: Path) -> bytes:
        if not path.resolve().is_relative_to(self.base.resolve()):
            where, action = str(path), "copy the file to where the link lies"
            raise refused("files inside of the folder", f"a link to {path.resolve()}", where, action)
        size = path.stat().st_size
        if size > LARGE and not self.large:
            action = "make it smaller, or allow it with large=True"
            raise refused(f"files of at most {LARGE:,} bytes", f"{size:,} bytes", str(path), action)
        return path.read_bytes()
