"""The option `--scorer`: a folder with a checkpoint, or a run whose champion is asked.

--scorer models/rm         a reward model: its logit is the reward
--scorer runs/judge=0.5    a judge: half of the probability that it gives to `right`
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar.artifact import Policy
from instar.components.generated.templates import STYLE
from instar.components.reward.config import VerifyConfig
from instar.errors import ConfigError, nearest
from instar.manifest import manifest_of
from instar.pipelines.export.select import opened, select
from instar.pipelines.lifecycle import stored_recipe
from instar.sources import FOLDER
from instar.workspace import Workspace

if TYPE_CHECKING:
    from instar.cli.own import Brought

SCORER = re.compile(r"(?P<place>.+?)(?:=(?P<weight>[-+]?[0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?))?")
"""A folder or a run, then its weight if it is not 1."""


def bring_scorer(text: str, wording: str | None, brought: Brought, stack: contextlib.ExitStack) -> None:
    """Take the model that `--scorer` names, and name it in the three configurations that score answers."""
    from instar.components.reward.scorer_folder import copy_scorer, read_scorer

    match = SCORER.fullmatch(text)
    assert match is not None  # the pattern takes every text
    place, weight = match["place"], float(match["weight"] or 1.0)
    asked: dict[str, Any] = {}
    if (Path(place) / "config.json").is_file():
        folder = brought.folder / "scorer"
        copy_scorer(Path(place), folder)
        brought.scorer_folder = Path(place)
    else:
        workspace = stack.enter_context(_run(place))
        folder, asked = select(workspace, "champion", place).folder, _wording_of_run(workspace)
    kind, form = read_scorer(folder, f"--scorer {place}")
    brought.artifacts["scorer"] = Policy(folder)
    fields: dict[str, Any] = {"kind": kind, "weight": weight, "initial": _is_initial(folder, brought)}
    if kind == "judge":
        asked = _wording(wording) if wording is not None else asked
        lines = STYLE.get(asked.get("wording", ""), "") == "line"
        fields |= asked | {"form": "text" if lines else form}
    elif wording is not None:
        raise ConfigError(
            expected="a judge as --scorer, because a reward model is not asked in words",
            found=f"a reward model in {place}",
            where=f"--wording {wording}",
            action="leave it out",
        )
    brought.score_with({"scorer": fields})


@contextlib.contextmanager
def _run(place: str) -> Iterator[Workspace]:
    if FOLDER not in place and not (Path(place) / "evolution.json").is_file():
        raise ConfigError(
            expected="a folder with a transformers checkpoint, which has a config.json, or a run",
            found="a folder without both" if Path(place).is_dir() else "nothing",
            where=f"--scorer {place}",
            action="name a folder, a run directory, or STORE/evolutions/NAME",
        )
    with opened(place) as workspace:
        yield workspace


def _wording_of_run(workspace: Workspace) -> dict[str, str]:
    """Return the wording in which the champion of a run learned to judge, if it did."""
    reward = stored_recipe(workspace).reward
    return {"wording": reward.recycle.wording} if isinstance(reward, VerifyConfig) and reward.recycle else {}


def _wording(text: str) -> dict[str, str]:
    """Return what `--wording` says: the name of a wording, or a file with a question."""
    if text in STYLE:
        return {"wording": text}
    if not Path(text).is_file():
        raise ConfigError(
            expected=f"{', '.join(STYLE)}, or a file with a question that has {{prompt}} and {{answer}}",
            found=repr(text),
            where="--wording",
            action=nearest(text, list(STYLE)),
        )
    return {"template": Path(text).read_text(encoding="utf-8").strip()}


def _is_initial(folder: Path, brought: Brought) -> bool:
    """Return whether the evolution starts from the same model."""
    initial = brought.artifacts.get("initial")
    return initial is not None and manifest_of(folder, "Policy").digest == manifest_of(initial.path, "Policy").digest
