"""Where the loop stands, as the flat ports of a task: what `open` and `gate` hand to the stages after them.

    Position(state, champion, evaluations)  <->  one pointer for each entry, `champion_<entry>`, `champion_evaluation`, `base_test`

A Kubeflow task has no nested outputs, so the entries of the state and those of the champion stand side by side.
"""

from __future__ import annotations

import functools
from typing import Any

from instar import contract
from instar.artifact import Artifact, Evaluation, Source
from instar.components.catalog import EVALUATE
from instar.components.dataset_prep.stage import reads_sources
from instar.pipelines.brought import first
from instar.pipelines.evolution import Position, stages
from instar.pipelines.recipe import Recipe
from instar.state import LIFETIMES, Champion, State, carried, declaration, of_lifetime, reads, writes

CHAMPION = "champion_"
EVALUATIONS = ("champion_evaluation", "base_test")


def handed_on(recipe: Recipe, kind: str) -> type[Any]:
    """Return the declaration of what `open` hands on at the start of a segment of this kind."""
    if kind != "begin":
        return pointers(recipe)
    count = len(recipe.sources) if reads_sources(recipe.dataset_prep) else 0
    more = {contract.flat_name(f"sources.{number}"): Source for number in range(count)}
    return declaration(
        "Brought", "What the user brought, and the evolutions that this one learns from.", first(recipe), more
    )


def pointers(recipe: Recipe) -> type[Any]:
    """Return the declaration of the ports that the stages of `recipe` need.

    These are the entries that a pass reads before it writes them, and those that the test of the champion reads. An entry of
    lifetime `learned` that no stage of the recipe writes is none for ever, and has no port.
    """
    loop = [*stages(recipe.inner()), (EVALUATE, recipe.evaluate)]
    needed = {*carried(loop), *reads(EVALUATE, recipe.test)}
    there = {
        *of_lifetime("brought", "prepared", "policy"),
        *(name for stage, config in loop for name in writes(stage, config)),
    }
    return _pointers(tuple(name for name in LIFETIMES if name in needed & there))


@functools.cache
def _pointers(entries: tuple[str, ...]) -> type[Any]:
    kept = sorted({*entries, *of_lifetime("policy")}, key=list(LIFETIMES).index)
    policy = declaration("", "", of_lifetime("policy"))
    champion = {f"{CHAMPION}{name}": hint for name, hint in policy.__annotations__.items()}
    more = {**champion, **dict.fromkeys(EVALUATIONS, Evaluation)}
    return declaration(
        "Pointers", "The state that goes on, the champion, and the evaluations of champion and base.", kept, more
    )


def pointers_of(position: Position, declared: type[Any]) -> dict[str, Artifact | None]:
    """Return the artifacts of a position by the name of their port."""
    champion = {f"{CHAMPION}{name}": artifact for name, artifact in position.champion.entries.items()}
    known = {**vars(position.state), **champion, **{name: getattr(position, name) for name in EVALUATIONS}}
    return {name: known[name] for name in contract.ports(declared)}


def position_of(pointers: Any, iteration: int) -> Position:
    """Return the position that the ports of a task describe. Entries without a port are `None`."""
    entries: dict[str, Any] = {name: getattr(pointers, name, None) for name in LIFETIMES}
    champion = Champion({name: getattr(pointers, f"{CHAMPION}{name}") for name in of_lifetime("policy")})
    evaluations = {name: getattr(pointers, name) for name in EVALUATIONS}
    return Position(iteration=iteration, state=State(**entries), champion=champion, **evaluations)
