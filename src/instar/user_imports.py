"""What a Python file imports, and where that lies. The file is parsed and never run.

    rew.py      import helper                own folder: part of the bundle
                import re, torch             standard library, images of instar: there already
                import nltk                  nowhere: refused with the line, unless a lock brings it

An import counts wherever it stands, also inside a function. There are two exceptions. Imports under `if TYPE_CHECKING:` never
run, so they do not count. An import that may fail, because `try` catches `ImportError`, is no error when nothing provides it.
"""

from __future__ import annotations

import ast
import sys
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from instar.errors import ConfigError, nearest

IMAGES: frozenset[str] = frozenset(
    (
        *(
            "alembic",
            "great_expectations",
            "gguf",
            "gymnasium",
            "h5py",
            "instar",
            "jinja2",
            "kfp_server_api",
            "kubernetes",
        ),
        *(
            "minio",
            "mlflow",
            "mujoco",
            "numpy",
            "pandas",
            "peft",
            "pyarrow",
            "reasoning_gym",
            "regex",
            "rich",
            "safetensors",
        ),
        *("sqlalchemy", "sympy", "tokenizers", "torch", "transformers", "typer", "yaml"),
    )
)
"""What every image of instar contains: the packages that its extras name, and those that torch and transformers always need."""
STANDARD = sys.stdlib_module_names | {"__future__", "__main__"}
_CATCHES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_BLOCKS = (ast.If, ast.Try, ast.ExceptHandler, ast.With, ast.For, ast.While)
"""Statements that hold others which run at module level. So does a handler of `try`."""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import statement: `from module import names`, at a line. `level` counts its leading dots.

    `guarded` says that the code goes on when the import fails.
    """

    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    line: int
    guarded: bool = False

    def __str__(self) -> str:
        dotted = "." * self.level + self.module
        return f"from {dotted} import {', '.join(self.names)}" if self.names else f"import {dotted}"


@dataclass(frozen=True)
class Module:
    """A file of the user as Python imports it: the folder on the search path, and its dotted name below it."""

    path: Path
    root: Path
    name: str

    @property
    def package(self) -> list[str]:
        """The parts of the package from which its relative imports count."""
        parts = self.name.split(".")
        return parts if self.path.name == "__init__.py" else parts[:-1]


def parse(data: bytes, path: Path) -> ast.Module:
    """Return the syntax tree of a file. Text that is not UTF-8 or not Python is a `ConfigError` with the line."""
    try:
        data.decode("utf-8")
        encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise refused("Python source in UTF-8", str(error), f"{path}:{line}", "save the file as UTF-8") from error
    except SyntaxError as error:  # a declared encoding that does not exist
        raise refused("Python source in UTF-8", str(error), f"{path}:1", "save the file as UTF-8") from error
    if encoding not in ("utf-8", "utf-8-sig"):
        raise refused("Python source in UTF-8", f"encoding {encoding}", f"{path}:1", "save the file as UTF-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(data, str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line, text = getattr(error, "lineno", None) or 1, getattr(error, "msg", None) or str(error)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise refused(f"Python {version} source", text, f"{path}:{line}", "correct the syntax") from error


def imports(tree: ast.AST) -> Iterator[Import]:
    """Yield the imports of a file in their order. No recursion: a long sum is as deep as it is long."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, guarded = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (Import(module=alias.name, line=node.lineno, guarded=guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield Import(module=node.module or "", names=names, level=node.level, line=node.lineno, guarded=guarded)
        elif isinstance(node, ast.Call) and (module := _imported_by_call(node)):
            yield Import(module=module, line=node.lineno, guarded=guarded)
        children: Sequence[ast.AST] = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and _last(node.test) == "TYPE_CHECKING":
            children = node.orelse
        inside = guarded or _may_fail(node)
        waiting += [(child, inside) for child in reversed(children)]


def _last(expression: ast.expr | None) -> str:
    """Return the last name of `name` or `some.name`, or an empty text for another expression."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _imported_by_call(call: ast.Call) -> str:
    """Return the module that `importlib.import_module("name")` or `__import__("name")` imports, if the name is written there."""
    first = call.args[0] if call.args else None
    if _last(call.func) not in ("import_module", "__import__") or not isinstance(first, ast.Constant):
        return ""
    return first.value if isinstance(first.value, str) and not first.value.startswith(".") else ""


def _may_fail(node: ast.AST) -> bool:
    """Return whether code goes on if an import inside of `node` fails."""
    if isinstance(node, ast.Try):
        return any(handler.type is None or _catches(handler.type) for handler in node.handlers)
    if isinstance(node, ast.With):
        calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
        return any(_last(call.func) == "suppress" and any(map(_catches, call.args)) for call in calls)
    return False


def _catches(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(_last(one) in _CATCHES for one in kinds)


def defined(body: Sequence[ast.AST]) -> dict[str, int]:
    """Return the names that a file defines at module level, with their lines. A star import is the name `*`."""
    names: dict[str, int] = {}
    for node in body:
        if isinstance(node, _SCOPES):
            names[node.name] = node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0]: node.lineno for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            names |= {part.id: node.lineno for part in stored}
        elif isinstance(node, _BLOCKS):
            names |= defined(list(ast.iter_child_nodes(node)))
    return names


def check_name(tree: ast.Module, name: str, path: Path, starred: set[str]) -> None:
    """Raise `ConfigError` unless the file has `name` at module level. `starred` are names that star imports bring."""
    names = defined(tree.body)
    if name in names or name in starred:
        return
    for outer in ast.walk(tree):
        for inner in ast.walk(outer) if isinstance(outer, _SCOPES) else ():
            if isinstance(inner, _SCOPES) and isinstance(outer, _SCOPES) and inner is not outer and inner.name == name:
                raise refused(
                    f"a function or class '{name}' at module level",
                    f"'{name}' inside of '{outer.name}'",
                    f"{path}:{inner.lineno}",
                    f"move '{name}' out of '{outer.name}'; what it reads from there becomes an argument or a constant",
                )
    hint = nearest(name, names) if names else "the file defines no name"
    raise refused(f"a function or class '{name}' in the file", "no such name", f"{path}:1", hint)


def line_that_runs(tree: ast.Module, package: str) -> int:
    """Return the first line at which importing the file would call something that it has from `package`, or 0."""
    names = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] == package
    }
    waiting: list[ast.AST] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _SCOPES) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            continue
        if isinstance(node, ast.Call) and _first(node.func) in names:
            return node.lineno
        waiting += reversed(list(ast.iter_child_nodes(node)))
    return 0


def _first(expression: ast.expr) -> str:
    """Return the first name of `name` or `name.some.other`, or an empty text for another expression."""
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else ""


def resolve(wanted: Import, module: Module, roots: Sequence[Path], outside: set[str]) -> list[Module]:
    """Return the files of the user's folders that an import loads, packages before what is in them.

    The list is empty if the module lies elsewhere: in the standard library or in `outside`. `ConfigError` is raised if it lies
    nowhere, or in two places.
    """
    if wanted.level:
        return _relative(wanted, module)
    top = wanted.module.partition(".")[0]
    own = [root for root in roots if (root / top / "__init__.py").is_file() or (root / f"{top}.py").is_file()]
    where = f"{module.path}:{wanted.line}"
    if own and (top in outside or top in STANDARD):
        kind = "a module of the standard library" if top in STANDARD else "an installed package"
        raise refused(f"one meaning of `{wanted}`", f"{kind} and {own[0] / top}", where, f"rename your '{top}'")
    if len(own) > 1:
        raise refused(
            f"one meaning of `{wanted}`", " and ".join(str(r / top) for r in own), where, "rename one of them"
        )
    if not own and (top in outside or top in STANDARD):
        return []
    for root in own or roots:
        if (files := _from(wanted, root, wanted.module)) is not None:
            return files
    raise _nowhere(wanted, where, local=bool(own))


def _relative(wanted: Import, module: Module) -> list[Module]:
    package, where = module.package, f"{module.path}:{wanted.line}"
    if wanted.level > len(package):
        raise refused(
            "relative imports that stay inside of a package",
            f"`{wanted}` in " + (f"package {'.'.join(package)}" if package else "a file that is in no package"),
            where,
            f"write `import {wanted.module or wanted.names[0]}`, or put an empty __init__.py into the folder of {module.path.name}",
        )
    base = package[: len(package) - wanted.level + 1]
    files = _from(wanted, module.root, ".".join([*base, *([wanted.module] if wanted.module else [])]))
    if files is None:
        raise _nowhere(wanted, where, local=True)
    return files


def _from(wanted: Import, root: Path, dotted: str) -> list[Module] | None:
    """Return the files that `from dotted import names` loads below `root`, or None if a part of it is missing there."""
    files = locate(root, dotted)
    if files is None:
        return None
    for name in wanted.names:
        inner = locate(root, f"{dotted}.{name}") if name != "*" else []
        if inner is None and not files:  # a folder without __init__.py has no names but its modules
            return None
        files += [module for module in inner or [] if module not in files]
    return files if files else None


def locate(root: Path, dotted: str) -> list[Module] | None:
    """Return the files below `root` that `import dotted` loads, or None if there is no such module."""
    folder, files, parts = root, [], dotted.split(".")
    for count, part in enumerate(parts, 1):
        name, package, module = ".".join(parts[:count]), folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            files.append(Module(package, root, name))
        elif module.is_file():
            return [*files, Module(module, root, name)] if count == len(parts) else None
        elif not (folder / part).is_dir():
            return None
        folder = folder / part
    return files


def _nowhere(wanted: Import, where: str, *, local: bool) -> ConfigError:
    if local:
        return refused(f"a file for `{wanted}` in your folder", "no such file", where, "correct the import")
    top = wanted.module.partition(".")[0]
    return refused(
        "imports of the standard library, of your own folder, of what instar's images contain, or of the requirements lock",
        f"`{wanted}`",
        where,
        f"put {top} beside the file, or lock the package that has it and name the lock: --requirements LOCK",
    )


def refused(expected: str, found: str, where: str, action: str) -> ConfigError:
    """Return the error that says why a file cannot be part of a bundle."""
    return ConfigError(expected=expected, found=found, where=where, action=action)
