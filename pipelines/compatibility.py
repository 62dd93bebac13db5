"""The matrix of combinations: every curriculum with every labelling and every update of the recipes, and whether they fit together.

`python -m instar.pipelines.compatibility` writes it as docs/composition.md. A test runs combinations that fit, each in seconds. It
also builds the others and checks that each is refused for the reason on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from instar import config as configs
from instar.errors import ConfigError
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build

HOSTS = {"answers to prompts": "sec", "logged trajectories": "decision_mamba"}
"""What a policy learns from, and a recipe for it. Its tasks, rollout and evaluation stay while the other pieces are swapped."""
ALPHABET = "0123456789=?|!ynab"
"""Characters that a character model needs in order to read and write generated tasks too."""
CURRICULA: dict[str, dict[str, Any]] = {
    "uniform": {"strategy": "uniform"},
    "ordered": {"strategy": "ordered", "steps": 100},
    "reverse": {"strategy": "reverse", "steps": 100},
    "best": {"strategy": "best"},
    "sec": {"strategy": "sec"},
    "sec on the fall of the loss": {"strategy": "sec", "signal": "loss_change"},
    "thompson": {"strategy": "thompson"},
    "proximal": {"strategy": "proximal"},
    "learnability": {"strategy": "learnability"},
}
LABELS: dict[str, dict[str, Any]] = {
    "verify (SEC)": {"reward": {"strategy": "verify", "style": "line"}},
    "verify and recycle (SPARK)": {
        "reward": {"strategy": "verify", "style": "line", "recycle": {"wording": "terse"}},
        "curriculum": {"generated": {"prompts": 4}},
    },
    "refine (Decision Mamba)": {"reward": {"strategy": "refine"}},
}
UPDATES: dict[str, dict[str, Any]] = {
    "GRPO (SEC)": {"strategy": "policy_gradient", "lr": 1e-4},
    "GRPO with KL (SPARK)": {
        "strategy": "policy_gradient",
        "lr": 1e-4,
        "kl": {"place": "loss", "kind": "k3", "coef": 0.001},
    },
    "sequence model (Decision Mamba)": {"strategy": "sequence"},
}


class Cell(NamedTuple):
    """One combination, by the names in the tables above."""

    host: str
    curriculum: str
    label: str
    update: str


def cells() -> Iterator[Cell]:
    """Yield every combination, in the order of the page."""
    for host in HOSTS:
        for curriculum in CURRICULA:
            for label in LABELS:
                for update in UPDATES:
                    yield Cell(host, curriculum, label, update)


def changes(cell: Cell) -> dict[str, Any]:
    """Return what a cell changes in the recipe of its host."""
    label = LABELS[cell.label]
    drawn = CURRICULA[cell.curriculum] | label.get("curriculum", {})
    out = {"curriculum": drawn, "reward": label["reward"], "update": UPDATES[cell.update]}
    if "curriculum" in label and HOSTS[cell.host] == "sec":
        out["dataset_prep"] = {"initial": {"model": {"alphabet": ALPHABET}}}
    return out


def swapped(cell: Cell) -> Recipe:
    """Return the recipe of a cell. Raises `ConfigError` when its pieces do not fit together."""
    return configs.merge(build(HOSTS[cell.host], "tiny"), changes(cell))


def verdict(cell: Cell) -> str:
    """Return `runs`, or what stands in the way: the missing column, or else the setting that does not fit."""
    try:
        swapped(cell)
    except ConfigError as error:
        column = error.expected.removeprefix("column ").partition(",")[0]
        return f"`{column}`" if error.expected.startswith("column ") else f"`{error.where.removeprefix('recipe.')}`"
    return "runs"


INTRODUCTION = """\
# What goes with what

Every piece of a recipe says which columns it reads and which columns it fills. A recipe is refused when it is built if a piece
reads a column that no piece fills. The error names the missing column, who reads it and who could fill it.

This page is generated from those declarations (`python -m instar.pipelines.compatibility`). Of {all} combinations, {closing} run.
Tests run each of these, and check that every other one is refused. A cell says `runs`, or it names what stands in the way: the
first column that no piece fills, or else the setting that does not fit.

```
instar run spark --set curriculum.strategy=sec                    # SEC's curriculum, SPARK's labelling
instar run decision_mamba --set curriculum.strategy=sec --set curriculum.signal=loss_change
```
"""


def page() -> str:
    """Return the page as Markdown."""
    every = {cell: verdict(cell) for cell in cells()}
    lines = [INTRODUCTION.format(all=len(every), closing=sum(text == "runs" for text in every.values()))]
    for host, recipe in HOSTS.items():
        lines += [f"## Learning from {host}", "", f"Tasks, rollout and evaluation of `{recipe}`.", ""]
        for label in LABELS:
            table = {name: [every[Cell(host, name, label, update)] for update in UPDATES] for name in CURRICULA}
            lines += [f"Labelling: {label}", "", *_table(table), ""]
    return "\n".join(lines[:-1]) + "\n"


def _table(table: dict[str, list[str]]) -> list[str]:
    """Return the rows of a table, or one line if no combination of it runs."""
    texts = sorted({text for row in table.values() for text in row})
    if "runs" not in texts:
        return [f"No combination runs; in the way: {', '.join(texts)}."]
    head = [f"| curriculum | {' | '.join(UPDATES)} |", "|---" * (len(UPDATES) + 1) + "|"]
    return head + [f"| {name} | {' | '.join(row)} |" for name, row in table.items()]


if __name__ == "__main__":
    (Path(__file__).resolve().parents[1] / "docs/composition.md").write_text(page())
