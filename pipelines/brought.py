"""What a user brings to an evolution: code, tasks and models. It is stored when the evolution opens, and pinned by digest.

    {"reward_code": Code(folder), "imported": ImportedTasks(folder)}   ->   opening entry: brought.reward_code = sha256:...

From then on it is an artifact like any other: an input of the stages that read it, part of their keys, fetched by digest in a pod.
No path of the user's machine is in the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args, get_type_hints

from instar import state
from instar.artifact import Artifact
from instar.components.catalog import DATASET_PREP, EVALUATE
from instar.errors import ConfigError
from instar.ledger import Ledger
from instar.pipelines import evolution
from instar.pipelines.recipe import Recipe
from instar.workspace import Workspace

OPTIONS = {
    "imported": "--tasks",
    "initial": "--from",
    "scorer": "--scorer",
    "reward_code": "--reward",
    "curriculum_code": "--set curriculum.strategy=FILE.py:CLASS",
    "update_code": "--set update.advantage=FILE.py:FUNCTION",
}
"""Entry -> the option of the command line that brings it."""


def first(recipe: Recipe) -> list[str]:
    """Return the brought entries that are read before the first iteration."""
    read = {*state.reads(DATASET_PREP, recipe.dataset_prep)}
    read |= {name for config in (recipe.evaluate, recipe.test) for name in state.reads(EVALUATE, config)}
    return [name for name in state.of_lifetime("brought") if name in read]


def needed(recipe: Recipe) -> list[str]:
    """Return the brought entries that some stage of the recipe reads."""
    read = {name for stage, config in evolution.stages(recipe.inner()) for name in state.reads(stage, config)}
    return [name for name in state.of_lifetime("brought") if name in {*read, *first(recipe)}]


def check(recipe: Recipe, brought: Mapping[str, Artifact]) -> None:
    """Raise `ConfigError` if a stage would read what is not there, or if nothing would read what is there."""
    wanted = set(needed(recipe))
    for name in sorted(wanted ^ set(brought)):
        missing = name in wanted
        raise ConfigError(
            expected=f"{OPTIONS[name]}, because the recipe reads it" if missing else f"no {OPTIONS[name]}",
            found="nothing" if missing else "one that no stage of this recipe reads",
            where=f"recipe.{name}",
            action=f"add {OPTIONS[name]}" if missing else "leave it out, or choose a strategy that reads it",
        )


def pin(workspace: Workspace, brought: Mapping[str, Artifact]) -> dict[str, str]:
    """Store the artifacts that have no digest yet, and return entry -> digest."""
    return {name: artifact.digest or workspace.put(artifact) for name, artifact in sorted(brought.items())}


def pinned(ledger: Ledger) -> dict[str, Artifact]:
    """Return what an evolution was opened with."""
    opened = next(ledger.of("open"), None)
    return of_digests(opened.body.get("brought", {}) if opened is not None else {})


def of_digests(digests: Mapping[str, str]) -> dict[str, Artifact]:
    """Return the artifacts that these entries of the state are."""
    return {name: kind_of(name)(None, digest) for name, digest in digests.items()}


def kind_of(name: str) -> type[Artifact]:
    """Return the artifact class of an entry of the state."""
    (kind,) = (a for a in get_args(get_type_hints(state.State)[name]) if a is not type(None))
    return kind  # type: ignore[no-any-return]
