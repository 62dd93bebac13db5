"""Imports point down, and never in a circle: core < kernels < components < pipelines < the command line.

The graph is drawn from the sources, so imports inside functions count. Those under `if TYPE_CHECKING` are for readers and
type checkers, run never, and do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("core", "kernels", "components", "pipelines", "cli")
"""Bottom up. The core is what lies directly in src/instar, and its packages other than these."""
TOP = {"instar.__main__"}
"""Entry points outside of `instar.cli`: they belong to the command line."""
Graph = Mapping[str, set[str]]


def sources(root: Path) -> dict[str, Path]:
    """Return the modules of the package by name. The folders that src/instar links to are read where they lie."""
    modules = {}
    for folder in (root / "src/instar", *(root / layer for layer in LAYERS[1:-1])):
        for path in folder.rglob("*.py"):
            parts = list(path.relative_to(root).with_suffix("").parts)
            parts = parts[1:] if parts[0] == "src" else ["instar", *parts]
            if parts[0] == "instar" and not any(parent.is_symlink() for parent in path.parents):
                modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import that can run; the name is empty for `import module`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(body=node.orelse, type_ignores=[]))
            continue
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        yield from imports(node)


def graph(modules: Mapping[str, Path]) -> Graph:
    """Return which modules of the package each module imports. `from package import module` counts for the module."""
    arrows: dict[str, set[str]] = {}
    for name, path in modules.items():
        pairs = imports(ast.parse(path.read_text()))
        targets = {f"{module}.{what}" if f"{module}.{what}" in modules else module for module, what in pairs}
        arrows[name] = targets & modules.keys()
    return arrows


def layer(module: str) -> int:
    """Return the number of a module's layer."""
    part = "cli" if module in TOP else module.split(".")[1] if "." in module else "core"
    return LAYERS.index(part) if part in LAYERS else 0


def upward(arrows: Graph) -> list[str]:
    """Return the imports of a module from a higher layer."""
    return sorted(f"{a} imports {b}" for a, targets in arrows.items() for b in targets if layer(b) > layer(a))


def cycle(arrows: Graph) -> list[str]:
    """Return the modules of one circle of imports, if there is one."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_from_a_layer_above_it() -> None:
    arrows = graph(sources(ROOT))
    assert {layer(name) for name in arrows} == set(range(len(LAYERS)))  # every layer was read
    assert sum(map(len, arrows.values())) > 500
    assert upward(arrows) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycle(graph(sources(ROOT))) == []


def planted(root: Path, files: Mapping[str, str]) -> Graph:
    """Return the graph of a package with these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return graph(sources(root))


def test_an_import_inside_a_function_counts_and_one_for_type_checkers_does_not(tmp_path: Path) -> None:
    up = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from instar.cli import app\n"
    arrows = planted(
        tmp_path,
        {
            "src/instar/cli/app.py": "import instar.ledger",
            "src/instar/ledger.py": up,
            "components/rollout/stage.py": "def run():\n    if True:\n        from instar.pipelines import gate",
            "pipelines/gate.py": "from instar.components.rollout.stage import run",
        },
    )
    assert upward(arrows) == ["instar.components.rollout.stage imports instar.pipelines.gate"]
    assert set(cycle(arrows)) == {"instar.components.rollout.stage", "instar.pipelines.gate"}
    assert arrows["instar.cli.app"] == {"instar.ledger"} and arrows["instar.ledger"] == set()
