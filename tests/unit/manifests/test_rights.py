"""The table of rights is what the code calls: read off the syntax of the modules that call, and of the clients that ask."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest
from manifests.rights import CALLS, CHAIN, GANG, MODULES, PIPELINES, ROLES

from instar.kfp.api import KfpApi

ROOT = Path(__file__).parents[3]
CLIENT = ast.parse((ROOT / "src/instar/kfp/client.py").read_text())
SERVICES = ("_runs", "_schedules", "_experiments", "_pipelines", "_uploads")


def methods(tree: ast.AST, name: str) -> Mapping[str, ast.FunctionDef]:
    """Return the methods of a class."""
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}


def requests(name: str) -> set[str]:
    """Return the requests that a method of the client sends, its helpers' included."""
    found: set[str] = set()
    for node in ast.walk(methods(CLIENT, "KfpClient")[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr in SERVICES:
            found.add(node.attr)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            helper = node.attr in methods(CLIENT, "KfpClient") and node.attr != name
            found |= requests(node.attr) if helper else set()
            found |= {node.attr} & {"_get_workflow"}
    return found


def called(path: str, of: set[str]) -> set[str]:
    """Return which methods `of` an API a module calls on something named `api`, or on what `open` returned."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in of:
            target = node.func.value
            name = (
                target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else ""
            )
            if name == "api":
                found.add(node.func.attr)
    return found


INTERFACE = {name for name in vars(KfpApi) if not name.startswith("_")}
GANG_API = set(methods(ast.parse((ROOT / "pipelines/chain/gang/api.py").read_text()), "GangApi"))


def test_every_request_of_the_client_is_in_the_table_and_no_other() -> None:
    assert set().union(*(requests(name) for name in INTERFACE)) == set(CALLS)


@pytest.mark.parametrize("role", ["instar-chain", "instar-submit"])
def test_a_role_may_do_what_its_modules_ask_of_the_pipelines(role: str) -> None:
    used = set().union(*(called(path, INTERFACE) for path in MODULES[role]))
    assert {(PIPELINES, *CALLS[request]) for name in used for request in requests(name)} == ROLES[role]


def test_the_launcher_may_do_what_its_modules_ask_of_kubernetes() -> None:
    asked = {name for name in GANG_API if not name.startswith("_")}
    assert asked == set(GANG)
    used = set().union(*(called(path, asked) for path in MODULES["instar-launch"]))
    assert {right for name in used for right in GANG[name]} == ROLES["instar-launch"]


def test_no_module_asks_that_the_table_does_not_know() -> None:
    """Whatever else of ours names a method of the API on an `api` would need rights that no role has."""
    known = {path for paths in MODULES.values() for path in paths} | set(CHAIN)
    core = (ROOT / "src/instar").glob("*.py")
    folders = [ROOT / "components", ROOT / "pipelines", *core, ROOT / "src/instar/cli", ROOT / "src/instar/kfp"]
    files = {path for folder in folders for path in ([folder] if folder.is_file() else folder.rglob("*.py"))}
    asking = {p for p in (str(f.relative_to(ROOT)) for f in files) if called(p, INTERFACE)}
    assert asking - {"src/instar/kfp/client.py"} <= known, asking - known
