"""Writes the first and the last entry of a ledger, and reads the recipe from the first one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from instar import config as configs
from instar.artifact import Artifact
from instar.code import code_version
from instar.errors import ConfigError, LedgerError
from instar.pipelines import versions
from instar.pipelines.brought import check as check_brought
from instar.pipelines.brought import pin as pin_brought
from instar.pipelines.extension import extend
from instar.pipelines.recipe import Recipe
from instar.sources import pin
from instar.status import changed
from instar.workspace import Workspace

if TYPE_CHECKING:
    from instar.pipelines.evolution import Outcome


def stored_recipe(workspace: Workspace) -> Recipe:
    """Return the resolved recipe of the ledger, with the iterations that are planned now."""
    opened = next(workspace.ledger.of("open"), None)
    if opened is None:
        raise LedgerError(
            expected="an evolution that was started, with an `open` entry",
            found="an empty ledger",
            where=workspace.ledger.prefix,
            action="start with `instar run`",
        )
    recipe: Recipe = configs.from_dict(Recipe, workspace.ledger.recipe, where="ledger:recipe")
    return recipe


def open_evolution(
    workspace: Workspace,
    recipe: Recipe,
    seed: int,
    brought: Mapping[str, Artifact] = MappingProxyType({}),
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the ledger's first entry, or check that it holds this recipe, this code and what the user brings.

    The entry pins the sources of the recipe and what is brought, as they are now, and holds `notes`. It also notes the versions
    that this process computes with, for example of torch (`instar.pipelines.versions`). A recipe that differs in its number of
    iterations alone extends the evolution (`instar.pipelines.extension`).
    """
    check_brought(recipe, brought)
    body: dict[str, Any] = {"recipe": configs.to_dict(recipe), "name": recipe.name, "scale": recipe.scale, "seed": seed}
    opened = next(workspace.ledger.of("open"), None)
    if opened is None:
        noted = {"at": time.time(), **versions.notes(recipe.threads)}
        pins: dict[str, Any] = {}
        if recipe.sources:
            pins["sources"] = [pin(workspace, uri) for uri in recipe.sources]
        if brought:
            pins["brought"] = pin_brought(workspace, brought)
        workspace.ledger.append("open", {**body, **pins, **notes, "code": code_version()}, noted)
    elif opened.body["seed"] != seed:
        raise ConfigError(
            expected=f"seed {opened.body['seed']}, with which this evolution was opened",
            found=f"seed {seed}",
            where=str(workspace.path),
            action="start the other seed with another --out or --name",
        )
    elif (differences := _differences(workspace.ledger.recipe, body["recipe"])) not in ([], ["iterations"]):
        raise ConfigError(
            expected="the recipe that this evolution was opened with",
            found=f"a change in {', '.join(differences[:4])}",
            where=str(workspace.path),
            action="choose another --out for the new configuration, or `instar resume` for the stored one",
        )
    elif (pins := pin_brought(workspace, brought)) != opened.body.get("brought", {}):
        raise _other(workspace, opened.body.get("brought", {}), pins)
    check_code(workspace, accept=False)
    if opened is not None and recipe.iterations != workspace.ledger.recipe["iterations"]:
        extend(workspace, recipe.iterations)


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the dotted paths at which two recipes differ, none if their texts are equal."""
    return [] if configs.dumps(stored) == configs.dumps(wanted) else changed(stored, wanted) or ["types of values"]


def _other(workspace: Workspace, before: Mapping[str, str], now: Mapping[str, str]) -> ConfigError:
    """Return the error for what the user brings if it is not what the evolution was opened with."""
    name = next(n for n in sorted({*before, *now}) if before.get(n) != now.get(n))
    return ConfigError(
        expected=f"{name} {before.get(name, 'none')[:19]}, with which this evolution was opened",
        found=now.get(name, "none")[:19],
        where=str(workspace.path),
        action=f"for the change choose another --out, with `--reuse {workspace.path}` for what does not depend on it; "
        "or `instar resume` to go on with what is stored",
    )


def check_code(workspace: Workspace, accept: bool) -> None:
    """Check that the evolution ran with this version of the code.

    If it did not, raise `LedgerError`. With `accept`, record instead that the evolution continues with this version.
    """
    accepted = [e.body["code"] for kind in ("open", "accept_code") for e in workspace.ledger.of(kind)]
    if code_version() in accepted:
        return
    if not accept:
        raise LedgerError(
            expected=f"code {accepted[-1]}",
            found=f"code {code_version()}",
            where=str(workspace.path),
            action="check out that version, or continue with this one: `instar resume DIR --accept-code`, which the ledger records",
        )
    workspace.ledger.append("accept_code", {"code": code_version()}, {"at": time.time()})


def close(workspace: Workspace, outcome: Outcome) -> None:
    """Write the entry that ends the evolution."""
    if workspace.ledger.closing is not None:
        return
    body = {
        "reason": outcome.reason,
        "iterations": outcome.iterations,
        "policy": outcome.state.policy.digest,
        "champion": outcome.champion.policy.digest,
    }
    workspace.ledger.append("close", body, {"at": time.time()})
