"""The command that makes a run again, found from the recipe in its ledger."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from instar import config as configs
from instar.errors import InstarError
from instar.pipelines.changes import resolved
from instar.pipelines.recipes import method
from instar.status import changed

ABSENT = object()


def run_command(recipe: Mapping[str, Any], seed: int) -> list[str]:
    """Return the lines of the command. It is given only if it leads to this very recipe.

    A recipe that was built in Python may differ from its method in ways that `--set` cannot say on one line. Then the command
    without these differences is given, and a line that says so.
    """
    name, scale, device = str(recipe["name"]), str(recipe["scale"]), recipe["device"] or None
    initial = recipe["dataset_prep"].get("initial") or {}
    model = initial["path"] if initial.get("strategy") == "checkpoint" else None
    words = ["instar", "run", name, "--scale", scale, "--seed", str(seed)]
    words += (["--device", device] if device else []) + (["--model", model] if model else [])
    try:
        base = method(name).recipe(scale, model)
        paths = changed(configs.to_dict(resolved(base, {}, device)), recipe)
        sets = [f"{path}={_toml(value)}" for path in paths if (value := _at(recipe, path)) is not ABSENT]
        again = resolved(base, configs.parse_set(sets), device)
    except InstarError:
        again, sets = None, []
    if again is not None and configs.dumps(again) == configs.dumps(recipe):
        return [shlex.join([*words, *(word for text in sets for word in ("--set", text))])]
    return [
        shlex.join([*words, *_own(recipe)]),
        "# with settings of its own: the first entry of the ledger has all of them",
    ]


def _own(recipe: Mapping[str, Any]) -> list[str]:
    """Return the options of what the user brought. Its files are named as the ledger knows them, without their folders."""
    pools = recipe["dataset_prep"].get("pools") or {}
    tasks = ["--tasks", "TASKS"] if pools.get("strategy") == "imported" else []
    return [*tasks, *(word for one in recipe["reward"].get("functions", ()) for word in ("--reward", one["entry"]))]


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key, ABSENT) if isinstance(value, Mapping) else ABSENT
    return value


def _toml(value: Any) -> str:
    """Return a value as TOML on one line. What TOML cannot hold gives another recipe, which the comparison notices."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_toml(inner)}' for key, inner in value.items() if inner is not None)}}}"
    return "none" if value is None else json.dumps(value)
