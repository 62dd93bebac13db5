"""Writes the first and the last entry of a ledger, and reads the recipe from the first one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from instar import config as configs
from instar.code import code_version
from instar.errors import ConfigError, LedgerError
from instar.pipelines import versions
from instar.pipelines.recipe import Recipe
from instar.sources import pin
from instar.status import changed
from instar.workspace import Workspace

if TYPE_CHECKING:
    from instar.pipelines.evolution import Outcome


def stored_recipe(workspace: Workspace) -> Recipe:
    """Return the resolved recipe from the ledger's first entry."""
    opened = next(workspace.ledger.of("open"), None)
    if opened is None:
        raise LedgerError(
            expected="an evolution that was started, with an `open` entry",
            found="an empty ledger",
            where=workspace.ledger.prefix,
            action="start with `instar run`",
        )
    recipe: Recipe = configs.from_dict(Recipe, opened.body["recipe"], where="ledger:recipe")
    return recipe


def open_evolution(workspace: Workspace, recipe: Recipe, seed: int) -> None:
    """Write the ledger's first entry, or check that it holds this recipe and this code.

    The entry pins the sources of the recipe as they are now. It also notes the versions that this process computes with, for
    example of torch (`instar.pipelines.versions`).
    """
    body = {"recipe": configs.to_dict(recipe), "name": recipe.name, "scale": recipe.scale, "seed": seed}
    opened = next(workspace.ledger.of("open"), None)
    if opened is None:
        noted = {"at": time.time(), **versions.notes(recipe.threads)}
        pins = {"sources": [pin(workspace, uri) for uri in recipe.sources]} if recipe.sources else {}
        workspace.ledger.append("open", {**body, **pins, "code": code_version()}, noted)
    elif opened.body["seed"] != seed:
        raise ConfigError(
            expected=f"seed {opened.body['seed']}, with which this evolution was opened",
            found=f"seed {seed}",
            where=str(workspace.path),
            action="start the other seed with another --out or --name",
        )
    elif configs.dumps(opened.body["recipe"]) != configs.dumps(body["recipe"]):
        raise ConfigError(
            expected="the recipe that this evolution was opened with",
            found=f"a change in {', '.join(changed(opened.body['recipe'], body['recipe'])[:4])}",
            where=str(workspace.path),
            action="choose another --out for the new configuration, or `instar resume` for the stored one",
        )
    check_code(workspace, accept=False)


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
    """Write the ledger's last entry."""
    if next(workspace.ledger.of("close"), None) is not None:
        return
    body = {
        "reason": outcome.reason,
        "iterations": outcome.iterations,
        "policy": outcome.state.policy.digest,
        "champion": outcome.champion.policy.digest,
    }
    workspace.ledger.append("close", body, {"at": time.time()})
