"""Every combination of curriculum, labelling and update that closes runs; every other one is refused; the page says which.

`make test` runs as many as it takes to have every strategy, and every labelling with every update; the others run at night.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from instar import config as configs
from instar.errors import ConfigError
from instar.pipelines import compatibility
from instar.pipelines.recipe import Recipe
from instar.workspace import open_workspace
from support.micro import micro, open_and_run
from support.micro_continuous import micro_continuous

EVERY = {cell: compatibility.verdict(cell) for cell in compatibility.cells()}
CLOSING = [cell for cell, verdict in EVERY.items() if verdict == "runs"]


def parts(cell: compatibility.Cell) -> set[tuple[str, ...]]:
    """Return what a run of the cell tries: each of its strategies, and its labelling with its update."""
    return {(part,) for part in cell} | {(cell.label, cell.update)}


def covering() -> list[compatibility.Cell]:
    """Return few cells whose parts are those of all that close: always the one that adds most."""
    missing, chosen = {part for cell in CLOSING for part in parts(cell)}, []
    while missing:
        chosen.append(max(CLOSING, key=lambda cell: len(missing & parts(cell))))
        missing -= parts(chosen[-1])
    return chosen


FEW = covering()
RUNS = [cell if cell in FEW else pytest.param(cell, marks=pytest.mark.slow) for cell in CLOSING]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(cell: compatibility.Cell) -> Recipe:
    """Return the cell at a size of a second: one iteration of two inner steps, so that the second draws what the first made."""
    host = (
        micro(iterations=1)
        if compatibility.HOSTS[cell.host] == "sec"
        else micro_continuous(iterations=1, inner_steps=2)
    )
    return configs.merge(host, compatibility.changes(cell))


def test_the_page_is_what_the_declarations_say() -> None:
    assert (Path(__file__).parents[2] / "docs/composition.md").read_text() == compatibility.page(), (
        "run python -m instar.pipelines.compatibility"
    )


def test_three_recipes_meet_and_both_kinds_of_data_close() -> None:
    assert {cell.host for cell in CLOSING} == set(compatibility.HOSTS)
    assert {cell.label for cell in CLOSING} == set(compatibility.LABELS) and {cell.update for cell in CLOSING} == set(
        compatibility.UPDATES
    )
    assert EVERY[compatibility.Cell("answers to prompts", "sec", "verify and recycle (SPARK)", "GRPO (SEC)")] == "runs"


@pytest.mark.parametrize("cell", RUNS, ids=lambda cell: "-".join(cell).replace(" ", "_"))
def test_what_closes_runs(cell: compatibility.Cell, tmp_path: Path) -> None:
    recipe = small(cell)
    open_and_run(tmp_path, dataclasses.replace(recipe, clock="rounds"))
    stages = [entry.body for entry in open_workspace(tmp_path).ledger.of("stage")]
    assert [body["stage"] for body in stages].count("update") == 2
    assert sum(body["metrics"].get("updates", 0.0) for body in stages if body["stage"] == "update") >= 1
    if "recycle" in cell.label:
        second = [body["metrics"] for body in stages if body["stage"] == "reward"][1]
        assert second["num_rollouts"] > recipe.curriculum.prompts * recipe.curriculum.group_size


@pytest.mark.parametrize(
    "cell", [cell for cell in EVERY if cell not in CLOSING], ids=lambda cell: "-".join(cell).replace(" ", "_")
)
def test_what_does_not_close_is_refused(cell: compatibility.Cell) -> None:
    with pytest.raises(ConfigError) as error:
        compatibility.swapped(cell)
    named = EVERY[cell].strip("`")
    assert f"column {named}," in error.value.expected or error.value.where.endswith(named)
    assert error.value.action
