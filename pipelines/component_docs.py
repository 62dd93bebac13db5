"""Generates the README of each component from its contract. `python -m instar.pipelines.component_docs` writes all of them."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from instar import contract
from instar.contract import Stage
from instar.pipelines.catalog import STAGES


def describe(stage: Stage[Any, Any, Any]) -> str:
    """Return Markdown: what the stage does, its inputs and outputs, and every configuration key with its default."""
    module = sys.modules[stage.run.__module__]
    lines = [f"# {stage.name}", "", inspect.cleandoc(module.__doc__ or ""), ""]
    for title, declaration in (("Inputs", stage.ins), ("Outputs", stage.outs)):
        rows = list(contract.ports(declaration).items())
        lines += [f"## {title}", ""]
        lines += ["| name | artifact | required | holds |", "|---|---|---|---|"] if rows else ["None.", ""]
        for port, (kind, required) in rows:
            doc = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
            lines.append(f"| `{port}` | {kind.__name__} | {'yes' if required else 'no'} | {doc} |")
        lines += [""] if rows else []
    lines += ["## Configuration", "", "| key | default |", "|---|---|"]
    lines += [f"| `{key}` | {default} |" for key, default in _keys(stage.config, "")]
    return "\n".join(lines) + "\n"


def _keys(kind: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, default) for each field of a config. The alternatives of a strategy follow one after the other."""
    if get_origin(kind) in (Union, types.UnionType):
        for option in get_args(kind):
            if dataclasses.is_dataclass(option):
                name = get_args(get_type_hints(option)["strategy"])[0]
                yield from ((f"{key} [{name}]", default) for key, default in _keys(option, prefix))
        return
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        nested = [a for a in (hints[field.name], *get_args(hints[field.name])) if dataclasses.is_dataclass(a)]
        key = f"{prefix}{field.name}"
        if nested and get_origin(hints[field.name]) is not tuple and field.default is not None:
            yield from _keys(hints[field.name], f"{key}.")
        elif field.default is not dataclasses.MISSING:
            yield key, f"`{field.default}`"
        else:
            yield key, "required" if field.default_factory is dataclasses.MISSING else f"`{field.default_factory()}`"


def readme_path(stage: Stage[Any, Any, Any]) -> Path:
    """Return the path of a stage's README, which is beside the module that declares the stage."""
    module = sys.modules[stage.run.__module__]
    folder = Path(module.__file__ or "").resolve().parent
    return folder / ("README.md" if Path(module.__file__ or "").stem == "stage" else f"{stage.name}.md")


if __name__ == "__main__":
    for declared in STAGES.values():
        readme_path(declared).write_text(describe(declared))
