"""What a user brings to a run: tasks, reward functions, a model that scores, a champion to start from.

    with bring(Own(rewards=("rew.py:reward", "rew.py:style=0.2"))) as brought:
        recipe = brought.adapt(recipe)          the recipe names the functions
        brought.artifacts["reward_code"]        their code, which is stored when the evolution opens

Names and paths are resolved here, on the machine of the user. A stage gets artifacts.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instar import config as configs
from instar.artifact import Artifact, Code
from instar.bundle import bundle
from instar.errors import ConfigError
from instar.pipelines.recipe import Recipe

REWARD = re.compile(r"(?P<entry>.+\.py:\w+)(?:\[(?P<low>[^,\]]+),(?P<high>[^,\]]+)\])?(?:=(?P<weight>.+))?")
"""FILE:NAME, then the range of its values in brackets and its weight, each if it is not the usual one."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """What the options of the command line name."""

    tasks: str | None = None
    rewards: tuple[str, ...] = ()
    requirements: Path | None = None
    allow: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Brought:
    """The artifacts by the name of their entry in the state, and how the recipe changes."""

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    def adapt(self, recipe: Recipe) -> Recipe:
        """Return the recipe that uses what was brought."""
        changed: Recipe = configs.merge(recipe, self.changes, recipe.name)
        return changed


@contextlib.contextmanager
def bring(own: Own) -> Iterator[Brought]:
    """Collect what the options name. The artifacts lie in a temporary folder until the evolution has stored them."""
    brought = Brought()
    with tempfile.TemporaryDirectory(prefix="instar-") as folder:
        if own.rewards:
            _bring_rewards(own, Path(folder) / "reward_code", brought)
        elif own.requirements or own.allow:
            raise ConfigError(
                expected="--reward, whose function needs the packages and permissions",
                found="--requirements" if own.requirements else f"--allow {own.allow[0]}",
                where="command line",
                action="add --reward FILE.py:NAME, or leave it out",
            )
        yield brought


def _bring_rewards(own: Own, folder: Path, brought: Brought) -> None:
    """Bundle the code of the reward functions, and name them in the three configurations that score answers."""
    functions = [parse_reward(text) for text in own.rewards]
    folder.mkdir()
    entries = bundle([function["entry"] for function in functions], folder, requirements=own.requirements)
    named = [{**function, "entry": entry} for function, entry in zip(functions, entries, strict=True)]
    scoring: dict[str, Any] = {"functions": named}
    if own.allow:
        scoring["sandbox"] = {"allow": list(own.allow)}
    brought.artifacts["reward_code"] = Code(folder)
    brought.changes |= dict.fromkeys(("reward", "evaluate", "test"), scoring)


def parse_reward(text: str) -> dict[str, Any]:
    """Return the fields of `rew.py:style[-1,1]=0.2`: entry, range and weight."""
    match = REWARD.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        numbers = {name: float(match[name]) for name in ("low", "high", "weight") if match[name] is not None}
    except ValueError:
        raise ConfigError(
            expected="FILE.py:NAME, FILE.py:NAME=WEIGHT or FILE.py:NAME[LOW,HIGH]",
            found=text,
            where="--reward",
            action="write for example --reward rew.py:reward --reward rew.py:style=0.2",
        ) from None
    return {"entry": match["entry"], **numbers}
