"""What a user brings to a run: tasks, reward functions, a model that scores, a champion to start from.

    with bring(Own(rewards=("rew.py:reward", "rew.py:style=0.2"))) as brought:
        recipe = brought.adapt(recipe)          the recipe names the functions
            brought.artifacts["reward_code"]        their code, which is stored when the evolution opens

A setting may name code as well: `--set curriculum.strategy=my.py:Easiest`.

Names and paths are resolved here, on the machine of the user. A stage gets artifacts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from instar import config as configs
from instar.artifact import Artifact, Code, ImportedTasks, Policy
from instar.bundle import bundle, entry_of
from instar.cli.own_scorer import bring_scorer
from instar.components.architecture import of_model
from instar.components.curriculum.config import OwnConfig
from instar.components.curriculum.own import Own as OwnCurriculum
from instar.components.curriculum.protocol_checks import problems
from instar.components.dataset_prep.config import Checkpoint, FromRun, TextConfig
from instar.components.dataset_prep.imported_config import ImportedConfig, config_of
from instar.components.reward.check_functions import check_functions
from instar.components.reward.config import VerifyConfig
from instar.components.reward.findings import require_sound
from instar.components.sandbox.sandbox import Sandbox
from instar.errors import ConfigError
from instar.manifest import manifest_of
from instar.pipelines.export.select import opened, select
from instar.pipelines.lifecycle import open_evolution
from instar.pipelines.method import started_from
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes.own import adapt
from instar.workspace import Workspace

REWARD = re.compile(r"(?P<entry>.+\.py:\w+)(?:\[(?P<low>[^,\]]+),(?P<high>[^,\]]+)\])?(?:=(?P<weight>.+))?")
"""FILE:NAME, then the range of its values in brackets and its weight, each if it is not the usual one."""


Rows: TypeAlias = Any
"""Tasks from Python: a path, a sequence of dictionaries, or a pandas DataFrame."""
Reward: TypeAlias = "str | Callable[..., Any]"
"""A reward from Python: FILE.py:NAME as on the command line, or a function that stands in a file."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """What the options of the command line name."""

    tasks: Rows | None = None
    rewards: tuple[str, ...] = ()
    start: str | None = None
    """The run whose champion is the first policy."""
    scorer: str | None = None
    """The model that scores answers: the folder of a checkpoint, or a run whose champion judges; perhaps with `=WEIGHT`."""
    wording: str | None = None
    """How a judge is asked: `words`, `few_shot`, `terse`, or a file with a question."""
    requirements: Path | None = None
    allow: tuple[str, ...] = ()
    accept_check: bool = False
    """Whether to run with a reward that is not sound."""


SETTINGS = {
    "curriculum.strategy": "curriculum_code",
    "update.advantage": "update_code",
    "update.filter": "update_code",
}
"""Setting that may name code of the user's -> entry of the state that holds this code."""
CODE = re.compile(r".+\.py:[A-Za-z_]\w*")


def own_of(
    tasks: Rows | None,
    reward: Reward | Sequence[Reward] | None,
    start: Path | str | None,
    accept_check: bool,
    scorer: Path | str | None = None,
    wording: Path | str | None = None,
) -> Own:
    """Return what a call from Python brings."""
    several = [] if reward is None else [reward] if isinstance(reward, str) or callable(reward) else list(reward)
    rewards = tuple(one if isinstance(one, str) else entry_of(one) for one in several)
    path = os.fspath(tasks) if isinstance(tasks, str | os.PathLike) else tasks
    return Own(
        tasks=path,
        rewards=rewards,
        start=None if start is None else str(start),
        scorer=None if scorer is None else str(scorer),
        wording=None if wording is None else str(wording),
        accept_check=accept_check,
    )


@dataclass(kw_only=True)
class Brought:
    """The artifacts by the name of their entry in the state, and how the recipe changes."""

    folder: Path
    requirements: Path | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    """Part of the recipe -> its fields, and the values that they get."""

    pools: ImportedConfig | None = None
    start: str | None = None
    initial: FromRun | None = None
    scorer_folder: Path | None = None
    """The folder that `--scorer` names, if it does not name a run."""
    accept_check: bool = False

    def adapt(self, recipe: Recipe) -> Recipe:
        """Return the recipe that uses what was brought."""
        if self.initial is not None:
            recipe = started_from(recipe, self.initial, f"--from {self.start}")
        if self.scorer_folder is not None and _starts_from(recipe, self.scorer_folder):
            self.score_with({"scorer": {**self.changes["reward"]["scorer"], "initial": True}})
        recipe = configs.merge(recipe, self.changes, recipe.name)
        return recipe if self.pools is None else adapt(recipe, self.pools)

    def open(self, workspace: Workspace, recipe: Recipe, seed: int) -> None:
        """Open the evolution with what was brought. A reward is checked on its tasks first (`instar check`)."""
        new = next(workspace.ledger.of("open"), None) is None
        if new and isinstance(recipe.curriculum, OwnConfig) and not self.accept_check:
            self._check_curriculum(recipe.curriculum)
        open_evolution(workspace, recipe, seed, self.artifacts, self.notes(recipe) if new else {})

    def _check_curriculum(self, config: OwnConfig) -> None:
        """Raise the first error of a curriculum that does not keep its protocol."""
        code = self.artifacts["curriculum_code"]
        assert isinstance(code, Code)
        with Sandbox(Code(code.path, code.digest or manifest_of(code.path, "Code").digest), config.sandbox) as sandbox:
            for error in problems(lambda arms: OwnCurriculum(config, sandbox, arms)):
                raise error

    def notes(self, recipe: Recipe) -> dict[str, Any]:
        """Check the reward on its tasks. Return what the opening entry says about that."""
        if {"imported", "reward_code"} <= set(self.artifacts) and isinstance(recipe.reward, VerifyConfig):
            return {"check": require_sound(self._checked(recipe.reward), self.accept_check)}
        return {}

    def _checked(self, config: VerifyConfig) -> dict[str, Any]:
        """Return the report of the checks of the reward functions on the tasks."""
        from instar.cli.sample_rows import samples

        code = self.artifacts["reward_code"]
        assert isinstance(code, Code)
        code = Code(code.path, code.digest or manifest_of(code.path, "Code").digest)
        rows = samples(self.artifacts["imported"].path, self.folder)
        return check_functions(config.functions, code, config.sandbox, rows, config.style)

    def bundled(self, name: str, entries: Sequence[str]) -> list[str]:
        """Make the code artifact `name` of these entries, and return them as they are called in there."""
        folder = self.folder / name
        folder.mkdir()
        inside = bundle(entries, folder, requirements=self.requirements)
        self.artifacts[name] = Code(folder)
        return inside

    def score_with(self, fields: Mapping[str, Any]) -> None:
        """Give these fields to the three configurations that score answers."""
        for part in ("reward", "evaluate", "test"):
            self.changes[part] = {**self.changes.get(part, {}), **fields}

    def named(self, differences: Mapping[str, Any]) -> dict[str, Any]:
        """Return nested differences in which the settings that name code hold the configuration of it."""
        paths = {path: value for path in SETTINGS if CODE.fullmatch(value := _at(differences, path))}
        changed = dict(differences)
        for name in sorted({SETTINGS[path] for path in paths}):
            mine = [path for path in paths if SETTINGS[path] == name]
            for path, entry in zip(mine, self.bundled(name, [paths[path] for path in mine]), strict=True):
                changed = _with(changed, path, entry)
        return changed


def _starts_from(recipe: Recipe, folder: Path) -> bool:
    prep = recipe.dataset_prep
    initial = prep.initial if isinstance(prep, TextConfig) else None
    return isinstance(initial, Checkpoint) and Path(initial.path).resolve() == folder.resolve()


def _at(differences: Mapping[str, Any], path: str) -> str:
    part, name = path.split(".")
    below = differences.get(part)
    value = below.get(name) if isinstance(below, Mapping) else None
    return value if isinstance(value, str) else ""


def _with(differences: Mapping[str, Any], path: str, entry: str) -> dict[str, Any]:
    """Return the differences with the configuration of `entry` in place of the text at `path`."""
    part, name = path.split(".")
    settings: dict[str, dict[str, Any]] = {"advantage": {"entry": entry}, "filter": {"function": {"entry": entry}}}
    own = settings.get(name)
    change = {name: own} if own else {"strategy": "own", "entry": entry}
    return {**differences, part: {**differences[part], **change}}


@contextlib.contextmanager
def bring(own: Own) -> Iterator[Brought]:
    """Collect what the options name. The artifacts lie in a temporary folder until the evolution has stored them."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="instar-"))
        brought = Brought(folder=Path(folder), requirements=own.requirements, accept_check=own.accept_check)
        if own.start is not None:
            _bring_start(own.start, stack.enter_context(opened(own.start)), brought)
        if own.tasks is not None:
            _bring_tasks(own.tasks, brought)
        if own.scorer is not None:
            bring_scorer(own.scorer, own.wording, brought, stack)
        elif own.wording is not None:
            raise ConfigError(
                expected="--scorer, whose questions the wording is for",
                found=f"--wording {own.wording}",
                where="command line",
                action="add --scorer PATH_OR_RUN, or leave it out",
            )
        if own.rewards:
            _bring_rewards(own, brought)
        elif own.requirements or own.allow:
            raise ConfigError(
                expected="--reward, whose function needs the packages and permissions",
                found="--requirements" if own.requirements else f"--allow {own.allow[0]}",
                where="command line",
                action="add --reward FILE.py:NAME, or leave it out",
            )
        yield brought


def _bring_start(run: str, workspace: Workspace, brought: Brought) -> None:
    """Take the champion of a run. It has to be a language model."""
    champion = select(workspace, "champion", run).folder
    kind = json.loads((champion / "config.json").read_text()).get("model_type", "")
    if kind.startswith("instar_"):
        raise ConfigError(
            expected="a run whose champion is a language model",
            found=f"a policy for continuous control ({kind})",
            where=f"--from {run}",
            action="name a run of a recipe on text",
        )
    brought.start, brought.initial = run, FromRun(sizes=of_model(str(champion)))
    brought.artifacts["initial"] = Policy(champion)


def _bring_tasks(tasks: Rows, brought: Brought) -> None:
    """Take an imported folder as it is; import anything else."""
    from instar.cli.importing import run
    from instar.components.dataset_prep.imported.importer import Options

    if not isinstance(tasks, str):
        tasks = _written(tasks, brought.folder / "rows.jsonl")
    folder = Path(tasks)
    if not (folder / "import.json").is_file():
        folder = brought.folder / "imported"
        run(tasks, folder, Options())
    imported = ImportedTasks(folder)
    brought.artifacts["imported"], brought.pools = imported, config_of(imported)


def _written(rows: Any, path: Path) -> str:
    """Write the rows of a DataFrame, or dictionaries, as JSON Lines, and return the path."""
    records = rows.to_dict("records") if hasattr(rows, "to_dict") else rows
    with path.open("w", encoding="utf-8") as file:
        for number, record in enumerate(records):
            try:
                file.write(json.dumps(record, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    expected="rows of values that JSON can hold",
                    found=str(error),
                    where=f"tasks[{number}]",
                    action="convert the value, for example to a text or a list",
                ) from error
    return str(path)


def _bring_rewards(own: Own, brought: Brought) -> None:
    """Bundle the code of the reward functions, and name them in the three configurations that score answers."""
    functions = [parse_reward(text) for text in own.rewards]
    entries = brought.bundled("reward_code", [function["entry"] for function in functions])
    named = [{**function, "entry": entry} for function, entry in zip(functions, entries, strict=True)]
    scoring: dict[str, Any] = {"functions": named}
    if own.allow:
        scoring["sandbox"] = {"allow": list(own.allow)}
    brought.score_with(scoring)


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
