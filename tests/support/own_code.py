"""A micro evolution of which everything is the user's: rows, two reward functions, a curriculum, an advantage and a filter."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instar.cli.own import Brought, Own, bring
from instar.pipelines.changes import resolved
from instar.pipelines.recipe import Recipe
from instar.workspace import Workspace, create_workspace
from support.micro import EVOLUTION, micro

REWARD = """
from helper import clean


def reward(answer, reference):
    return clean(answer) == reference["answer"]


def tidy(completion, prompt):
    return {"correct": len(completion) == prompt.index("="), "length": len(completion)}
"""
HELPER = "def clean(text):\n    return text.strip()\n"
CURRICULUM = '''
import math
import random


class Half:
    """Draws the arms whose solve rate is nearest to one half."""

    def __init__(self, arms, keep=2):
        self.names = sorted(arm["name"] for arm in arms)
        self.rates = {name: None for name in self.names}
        self.keep = keep

    def probabilities(self):
        unknown = [name for name in self.names if self.rates[name] is None]
        chosen = unknown or sorted(self.names, key=lambda name: (abs(self.rates[name] - 0.5), name))[: self.keep]
        return {name: 1 / len(chosen) for name in chosen}

    def select(self, num, seed):
        p = self.probabilities()
        names = random.Random(seed).choices(sorted(p), k=num)
        return [(name, p[name]) for name in names]

    def observe(self, stats):
        for row in stats:
            if row["num_rollouts"]:
                self.rates[row["arm"]] = row["sum_correct"] / row["num_rollouts"]

    def state_dict(self):
        return {"rates": self.rates}

    def load_state_dict(self, state):
        if set(state) != {"rates"} or set(state["rates"]) != set(self.names):
            raise ValueError(f"not a complete state: {state}")
        self.rates = dict(state["rates"])

    def metrics(self):
        p = self.probabilities()
        shares = {f"{name}/p": p.get(name, 0.0) for name in self.names}
        return {**shares, "entropy": -sum(value * math.log(value) for value in p.values())}
'''
UPDATE = """
def centred(rewards, groups):
    means = {}
    for group in set(groups):
        mine = [r for r, g in zip(rewards, groups) if g == group]
        means[group] = sum(mine) / len(mine)
    return [r - means[g] for r, g in zip(rewards, groups)]


def mixed(correct, groups):
    return [len({c for c, g in zip(correct, groups) if g == group}) > 1 for group in range(max(groups) + 1)]
"""
FILES = {"rew.py": REWARD, "helper.py": HELPER, "cur.py": CURRICULUM, "upd.py": UPDATE}
CODES = ("curriculum_code", "reward_code", "update_code")
"""The code artifacts of `own_recipe`."""


def write_files(folder: Path, **changed: str) -> Path:
    """Write the user's files, and the rows: sort 2, 3 and 4 digits. `changed` replaces files, for example `rew="..."`."""
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(changed.get(name.removesuffix(".py"), text))
    rows = [_row(n, number) for n in (2, 3, 4) for number in range(90)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _row(length: int, number: int) -> dict[str, Any]:
    digits = f"{(number * 7919 + 10**length) % 10**length:0{length}d}"
    return {"prompt": f"{digits}=", "answer": "".join(sorted(digits)), "arm": f"sort-{length}", "level": length}


@contextlib.contextmanager
def own_recipe(folder: Path, lock: Path | None = None, **changes: Any) -> Iterator[tuple[Recipe, Brought]]:
    """Return the recipe and what is brought to it, as the command line resolves them. `changes` are fields of the recipe."""
    sets = {
        "curriculum": {"strategy": f"{folder / 'cur.py'}:Half", "settings": {"keep": 3}},
        "update": {"advantage": f"{folder / 'upd.py'}:centred", "filter": f"{folder / 'upd.py'}:mixed"},
        "test": {"splits": ["id"]},
    }
    rewards = (f"{folder / 'rew.py'}:reward", f"{folder / 'rew.py'}:tidy=0.25")
    with bring(Own(tasks=str(folder / "rows.jsonl"), rewards=rewards, requirements=lock)) as brought:
        base = micro(threads=1, evaluate=dataclasses.replace(micro().evaluate, min_pairs=12), **changes)
        recipe = resolved(brought.adapt(base), brought.named(sets))
        yield recipe, brought


def open_own(
    directory: Path, folder: Path, store: str | None = None, lock: Path | None = None, **changes: Any
) -> tuple[Workspace, Recipe]:
    """Open the evolution in `directory`. Afterwards nothing is read from `folder` any more."""
    workspace = create_workspace(directory, EVOLUTION, store)
    with own_recipe(folder, lock, **changes) as (recipe, brought):
        brought.open(workspace, recipe, 0)
    return workspace, recipe
