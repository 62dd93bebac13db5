"""Recipes on a user's own rows: what follows from the rows is taken from them, and such a recipe runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instar import config as configs
from instar.artifact import Evaluation, ImportedTasks, Policy, QualityReport, Rollouts, Tasks
from instar.cli.explain import explain
from instar.components.catalog import DATASET_PREP
from instar.components.dataset_prep.config import FromScratch, ImportedConfig, TextConfig
from instar.components.dataset_prep.imported.importer import Options, import_tasks
from instar.components.dataset_prep.imported.probe import levels_of
from instar.components.dataset_prep.imported.splits import Shares
from instar.components.dataset_prep.imported_config import ImportedArm, config_of
from instar.components.dataset_prep.stage import Ins, Outs
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context
from instar.errors import ConfigError, ContractError
from instar.pipelines.changes import planned
from instar.pipelines.cost.sizes import answers
from instar.pipelines.evolution import evolve
from instar.pipelines.lifecycle import open_evolution, stored_recipe
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import method
from instar.pipelines.recipes.own import SHOWN_SHARE, adapt
from instar.workspace import create_workspace

ARM = ImportedArm(name="all", level=0.0, train=160, val=40, id=40)
POOLS = ImportedConfig(arms=(ARM,), longest_prompt=14, longest_answer=6, alphabet=" 0123456789=ikmn")
GRADED = replace(POOLS, arms=(replace(ARM, name="easy"), replace(ARM, name="hard", level=2.0)), levels=True)


def imported(folder: Path, options: Options | None = None) -> ImportedTasks:
    """Import 240 conversions of units."""
    path = folder / "units.jsonl"
    rows = [{"prompt": f"{n} km in m = ", "answer": f"{n}000"} for n in range(1, 241)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_tasks(str(path), folder / "tasks", options or Options(shares=Shares(val=0.2, test=0.2)))
    return ImportedTasks(folder / "tasks")


def adapted(base: Any, pools: ImportedConfig) -> Any:
    """Return a recipe on `pools`. Its pieces have the classes of text, which no type says."""
    return adapt(base, pools)


def micro(pools: ImportedConfig) -> Recipe:
    """Return a recipe on `pools` that runs in seconds."""
    changes: dict[str, Any] = {
        "iterations": 1,
        "inner_steps": 2,
        "curriculum": {"prompts": 12, "group_size": 4},
        "dataset_prep": {"initial": {"model": {"hidden": 32, "layers": 2, "heads": 2}, "warm_start": {"lr": 4e-3}}},
        "test": {"samples": 1},
    }
    recipe = adapted(method("sec").recipe("tiny"), pools)
    if recipe.dataset_prep.pools.probe is not None:
        changes["dataset_prep"]["pools"] = {"probe": {"tasks": 60, "samples": 3}}
    return configs.merge(recipe, changes)


def test_what_follows_from_the_rows_is_taken_from_them() -> None:
    base = method("sec").recipe("tiny")
    recipe = adapted(base, POOLS)
    assert isinstance(recipe.dataset_prep, TextConfig) and isinstance(recipe.dataset_prep.initial, FromScratch)
    assert recipe.dataset_prep.initial.model.alphabet == POOLS.alphabet
    assert recipe.dataset_prep.initial.warm_start.arms == ("all",)
    assert recipe.dataset_prep.initial.warm_start.share == SHOWN_SHARE
    limits = {recipe.rollout.max_new_tokens, recipe.evaluate.max_new_tokens, recipe.test.max_new_tokens}
    assert limits == {7} and recipe.test.splits == ("id",) and recipe.evaluate.splits == ("val",)
    assert {recipe.reward.style, recipe.evaluate.style, recipe.test.style} == {"whole"}
    assert (recipe.curriculum, recipe.update, recipe.gate) == (base.curriculum, base.update, base.gate)


@pytest.mark.parametrize("scale", ["tiny", "small", "single", "paper"])
def test_every_scale_can_be_planned_and_explained(scale: str) -> None:
    recipe = planned(adapted(method("sec").recipe(scale), POOLS))
    text = " ".join(explain(recipe).split())
    assert "imported rows: 160 training, 40 validation, 40 test; 1 arm(s); prompts of form text" in text
    assert "answers 512 training tasks 4 times" in text


def test_the_easiest_level_is_imitated_whole() -> None:
    recipe = adapted(method("sec").recipe("tiny"), GRADED)
    assert recipe.dataset_prep.initial.warm_start.arms == ("easy",)
    assert recipe.dataset_prep.initial.warm_start.share == 1.0
    assert recipe.evaluate.validation_sizes(recipe) == {"easy": 40, "hard": 40}
    assert answers(recipe.evaluate, GRADED.arms) == 80


def test_a_pretrained_model_keeps_its_start_and_reads_lines_only_where_answers_are_lines() -> None:
    small = adapted(method("sec").recipe("small"), POOLS)
    before = method("sec").recipe("small").dataset_prep
    assert isinstance(small.dataset_prep, TextConfig) and isinstance(before, TextConfig)
    assert small.dataset_prep.initial == before.initial
    assert small.rollout.stop == ("\n",) and small.rollout.max_new_tokens == 7
    assert adapted(method("sec").recipe("small"), replace(POOLS, answers_have_lines=True)).rollout.stop == ()
    paper = adapted(method("sec").recipe("paper"), POOLS)
    assert paper.rollout.max_new_tokens == 4096


@pytest.mark.parametrize(
    ("name", "pools", "expected", "action"),
    [
        ("decision_mamba", POOLS, "a recipe that answers prompts", "sec"),
        ("spark", POOLS, "a recipe that does not turn attempts", "sec"),
        ("sec", replace(POOLS, alphabet=""), "at most 512 characters", "--scale small"),
        ("sec", replace(POOLS, longest_prompt=600), "at most 512 characters", "--model"),
        ("sec", replace(POOLS, form="messages"), "form text", "--scale small"),
        ("sec", replace(POOLS, answers="none"), "rows with a text as answer", "--answer"),
        ("sec", replace(POOLS, arms=(replace(ARM, val=5),)), "at least 20 validation tasks", "raise the val pools"),
    ],
)
def test_rows_that_a_recipe_cannot_use_are_refused_with_the_reason(
    name: str, pools: ImportedConfig, expected: str, action: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        adapted(method(name).recipe("tiny"), pools)
    assert expected in raised.value.expected and action in raised.value.action


def test_styles_may_be_changed_together_only() -> None:
    recipe = adapted(method("sec").recipe("small"), POOLS)
    with pytest.raises(ConfigError, match="one style of answers"):
        configs.merge(recipe, {"reward": {"style": "boxed"}})
    changes: dict[str, Any] = {name: {"style": "boxed"} for name in ("reward", "evaluate", "test")}
    changes["dataset_prep"] = {"pools": {"probe": {"style": "boxed"}}}
    assert configs.merge(recipe, changes).reward.style == "boxed"
    with pytest.raises(ConfigError, match="a new character model writes bare answers"):
        configs.merge(adapted(method("sec").recipe("tiny"), POOLS), changes)


def prepared(
    folder: Path, tasks: ImportedTasks | None, pools: ImportedConfig, **changes: Any
) -> tuple[Outs, dict[str, float]]:
    """Run the stage on `tasks`. `changes` are those of the pools."""
    kinds = {"tasks": Tasks, "data": Rollouts, "quality": QualityReport, "policy": Policy}
    for name in kinds:
        (folder / "out" / name).mkdir(parents=True)
    outs = Outs(**{name: kind(folder / "out" / name, "") for name, kind in kinds.items()})
    prep = configs.merge(micro(pools), {"dataset_prep": {"pools": changes}}).dataset_prep
    ctx = Context(evolution="test", stage="dataset_prep", step=0, scratch=folder)
    return outs, dict(DATASET_PREP(Ins(imported=tasks), outs, prep, ctx))


def test_preparation_takes_the_rows_as_they_were_imported(tmp_path: Path) -> None:
    tasks = imported(tmp_path)
    outs, metrics = prepared(tmp_path, tasks, config_of(tasks), probe=None)
    assert outs.tasks.read() == tasks.read() and metrics["num_tasks"] == 240
    (arm,) = config_of(tasks).arms
    assert [metrics[f"num_tasks/{split}"] for split in ("train", "val", "id", "ood")] == [arm.train, arm.val, arm.id, 0]
    report = outs.quality.read_json("quality.json")
    assert report["success"] and report["rows"] == 240
    tokenizer = load_tokenizer(outs.policy)
    assert tokenizer.decode(tokenizer.encode("3 km in m = ")) == "3 km in m = "


def test_other_rows_than_the_recipe_was_made_for_are_refused(tmp_path: Path) -> None:
    tasks = imported(tmp_path)
    pools = config_of(tasks)
    with pytest.raises(ContractError, match="of arm 'all' in pool train, as the recipe says"):
        prepared(tmp_path / "a", tasks, replace(pools, arms=(replace(pools.arms[0], train=99),)))
    with pytest.raises(ContractError, match="pass --tasks"):
        prepared(tmp_path / "b", None, pools)


def test_an_evolution_runs_on_own_rows_and_finds_them_again(tmp_path: Path) -> None:
    tasks = imported(tmp_path)
    recipe = micro(config_of(tasks))
    workspace = create_workspace(tmp_path / "run", "units", None)
    open_evolution(workspace, recipe, 0, {"imported": tasks})
    outcome = evolve(LocalRunner(workspace, "inprocess", threads=1), recipe)
    assert stored_recipe(workspace) == recipe
    again = Tasks(workspace.cas.get(outcome.state.tasks.digest)).read()
    assert [row.prompt for row in again] == [row.prompt for row in tasks.read()]
    assert {row.arm for row in again} > {"unprobed"}
    evaluations = [e for e in workspace.ledger.of("stage") if e.body["stage"] == "evaluate"]
    evaluation = Evaluation(workspace.cas.get(evaluations[0].body["outputs"]["evaluation"]))
    asked = {row.task_id for row in evaluation.read()}
    assert asked == {row.task_id for row in again if row.split == "val"}


def test_a_probe_gives_levels_by_the_solve_rate(tmp_path: Path) -> None:
    tasks = imported(tmp_path)
    outs, metrics = prepared(tmp_path, tasks, config_of(tasks))
    rows, before = outs.tasks.read(), tasks.read()
    assert [(r.prompt, r.split, r.content_hash) for r in rows] == [(r.prompt, r.split, r.content_hash) for r in before]
    assert all(row.task_id == f"{row.arm}/{row.split}/{row.content_hash[:16]}" for row in rows)
    probed = {row.arm for row in rows} - {"unprobed"}
    assert 1 <= len(probed) <= 4 and all(name.startswith("solved-") for name in probed)
    train = [row for row in rows if row.split == "train"]
    assert [row.arm != "unprobed" for row in train] == [True] * 60 + [False] * (len(train) - 60)
    assert all(row.arm != "unprobed" for row in rows if row.split != "train")
    assert metrics["probe/levels"] == len(probed) and 0.0 < metrics["probe/solve_rate"] <= 1.0
    by_level = sorted({(row.level, row.arm) for row in rows if row.arm in probed})
    solved = [float(arm.removeprefix("solved-").split("-to-")[0]) for _, arm in by_level]
    assert solved == sorted(solved, reverse=True)
    assert outs.quality.read_json("quality.json")["rows"] == 240
    again, _ = prepared(tmp_path / "again", tasks, config_of(tasks))
    assert again.tasks.read() == rows


def test_equal_solve_rates_stay_in_one_level() -> None:
    levels = levels_of([1.0] * 6 + [0.5] * 2 + [0.25] * 2 + [0.0] * 6, 4)
    assert levels.names == ("solved-1", "solved-0.5", "solved-0.25", "solved-0")
    assert [levels.arm(rate) for rate in (1.0, 0.0)] == [levels.names[0], levels.names[-1]]
    assert [*levels.means] == sorted(levels.means) and levels.level("unprobed") == pytest.approx(levels.unprobed)
    assert levels_of([0.0] * 9, 4).names == ("solved-0",)
    assert levels_of([], 4).arm(0.5) == "unprobed"


def test_a_probe_scores_as_the_reward_does_and_then_rows_need_no_answer() -> None:
    named = {name: {"functions": [{"entry": "rew.py:reward"}]} for name in ("reward", "evaluate", "test")}
    base = configs.merge(method("sec").recipe("small"), named)
    recipe = adapted(base, replace(POOLS, answers="none", longest_answer=0))
    pools = recipe.dataset_prep.pools
    assert isinstance(pools, ImportedConfig) and pools.probe is not None
    assert pools.probe.functions == recipe.reward.functions and recipe.rollout.max_new_tokens == 6
    assert recipe.dataset_prep.reads == ("imported", "reward_code")
    assert adapted(method("sec").recipe("small"), POOLS).dataset_prep.reads == ("imported",)


def test_rows_with_arms_or_levels_are_not_probed() -> None:
    pools = adapted(method("sec").recipe("tiny"), GRADED).dataset_prep.pools
    assert isinstance(pools, ImportedConfig) and pools.probe is None
