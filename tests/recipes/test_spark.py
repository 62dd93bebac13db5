"""SPARK's recipe: what its scales say, what its warm start teaches, and that one evolution really judges and corrects."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest

from instar import config as configs
from instar.artifact import Evaluation, Tasks
from instar.components.curriculum.config import GeneratedDraw
from instar.components.dataset_prep.config import Checkpoint, TextConfig
from instar.components.dataset_prep.domains import DOMAINS
from instar.components.dataset_prep.pools import build_pools
from instar.components.dataset_prep.warm_generated import GeneratedWarmStart, examples
from instar.components.dataset_prep.warmstart import pairs
from instar.components.evaluate.config import AnswerConfig
from instar.components.reward.config import VerifyConfig
from instar.components.reward.verifiers import Score, verify
from instar.components.update.config import PolicyGradientConfig
from instar.errors import ConfigError
from instar.pipelines.evolution import evolve
from instar.pipelines.local import LocalRunner
from instar.pipelines.recipes import method, spark
from instar.rows import TaskRow
from instar.workspace import create_workspace


def _tasks() -> list[TaskRow]:
    rows = build_pools(spark.rows(range(8, 9), train=100, val=4, test=4), lambda pool: len(pool))
    return [row for row in rows if row.split == "train"]


def test_paper_has_the_published_settings() -> None:
    """Section 4: 64 prompts x 8 rollouts, 64 generated prompts in an update of their own, lr 5e-7, k3 as a loss at 1e-3."""
    recipe = spark.paper()
    assert isinstance(recipe.dataset_prep, TextConfig)
    assert recipe.dataset_prep.initial == Checkpoint(path="Qwen/Qwen2.5-7B-Instruct")
    assert (recipe.curriculum.prompts, recipe.curriculum.group_size) == (64, 8)
    assert recipe.curriculum.generated == GeneratedDraw(prompts=64, mode="alternate")
    update = recipe.update
    assert isinstance(update, PolicyGradientConfig)
    assert (update.lr, update.kl.kind, update.kl.coef, update.clip_low, update.clip_high) == (
        5e-7,
        "k3",
        1e-3,
        0.2,
        0.2,
    )
    assert (update.minibatches, update.epochs, update.entropy_coef) == (1, 1, 0.0)
    reward = recipe.reward
    assert isinstance(reward, VerifyConfig) and reward.recycle is not None
    rule = reward.recycle.rule
    assert (rule.judges, rule.reflections, rule.pair_share, rule.balance, rule.confirm_share) == (
        32,
        32,
        0.7,
        "none",
        0,
    )
    assert isinstance(recipe.evaluate, AnswerConfig) and recipe.evaluate.reflect is not None
    assert (recipe.evaluate.reflect.mode, recipe.evaluate.reflect.max_calls) == ("published", 5)


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_repaired_settings_where_labels_would_drift(scale: str) -> None:
    recipe = spark.SPARK.recipe(scale)
    assert isinstance(recipe.reward, VerifyConfig) and recipe.reward.recycle is not None
    assert recipe.reward.recycle.rule.balance != "none"
    assert recipe.reward.recycle.rule.confirm_share == 0.25
    assert recipe.curriculum.generated is not None


@pytest.mark.parametrize(
    ("draw", "recycle", "most"),
    [
        ({"prompts": 256}, {}, 0),
        ({"prompts": 513}, {"max_age": 0}, 512),  # never more than max_size wait
        ({"prompts": 257}, {}, 256),  # 24 + 8 tasks a step, gone after 8 updates
        ({"prompts": 600}, {"max_age": 0, "max_size": 0}, 0),
    ],
)
def test_a_batch_of_generated_tasks_that_can_never_be_full_is_refused(
    draw: dict[str, int], recycle: dict[str, int], most: int
) -> None:
    """In mode `alternate` such a run would be GRPO under another name: no step ever draws a generated task."""
    changes = {"curriculum": {"generated": draw | {"mode": "alternate"}}, "reward": {"recycle": recycle}}
    if most:
        with pytest.raises(ConfigError, match=f"generated.prompts <= {most}"):
            configs.merge(spark.tiny(), changes)
    else:
        configs.merge(spark.tiny(), changes)
    changes["curriculum"]["generated"]["mode"] = "mixed"
    configs.merge(spark.tiny(), changes)


def test_model_replaces_the_packaged_one() -> None:
    recipe = method("spark").recipe("small", "/models/mine")
    assert isinstance(recipe.dataset_prep, TextConfig)
    assert recipe.dataset_prep.initial == Checkpoint(path="/models/mine")


def test_counts_are_exact_and_every_count_is_as_likely() -> None:
    items = [DOMAINS["ones"].generate({"length": 6}, 0, index) for index in range(1400)]
    assert all(item.reference["answer"] == str(item.terse.count("1")) for item in items)
    shares = [sum(item.reference["answer"] == str(k) for item in items) for k in range(7)]
    assert all(abs(share - 200) < 5 * (1400 * (1 / 7) * (6 / 7)) ** 0.5 for share in shares)


def test_counts_stay_in_their_limits() -> None:
    params = {"length": 12, "least": 1, "most": 9}
    items = [DOMAINS["ones"].generate(params, 0, index) for index in range(900)]
    shares = [sum(item.terse.count("1") == k for item in items) for k in range(13)]
    assert shares[0] == 0 and not any(shares[10:]) and sum(shares) == 900
    assert all(abs(share - 100) < 5 * (900 * (1 / 9) * (8 / 9)) ** 0.5 for share in shares[1:10])
    assert items[0].reference["chance"] == pytest.approx(1 / 9)
    with pytest.raises(ConfigError, match="least <= length"):
        DOMAINS["ones"].generate({"length": 6, "least": 7}, 0, 0)


@pytest.mark.parametrize(
    ("lengths", "least", "most", "within"),
    [(spark.LENGTHS, 0, 64, False), ((*spark.TAUGHT, 12, 15, 18, 21, 24, 28), 1, 9, True)],
)
def test_numbers_that_the_start_cannot_say(lengths: Sequence[int], least: int, most: int, within: bool) -> None:
    """The ceiling of the recipe, and the rows of the claims that have none."""
    taught, asked = (
        {
            json.loads(row.reference)["answer"]
            for row in build_pools(pools, lambda pool: len(pool))
            if row.split in splits
        }
        for pools, splits in (
            (spark.rows(spark.TAUGHT, 1000, 4, 4), ("train",)),
            (spark.rows(lengths, 100, 48, 64, least, most), ("train", "val", "id")),
        )
    )
    assert (asked <= taught) == within


def test_worked_examples_say_what_a_verifier_says() -> None:
    tasks = _tasks()
    by_prompt = {task.prompt: task for task in tasks}
    found = examples(tasks, GeneratedWarmStart(point=1.0, pair=0.5, reflect=2.0), seed=3)
    assert len(found) == 100 + 50 + 200
    for prompt, answer in found:
        question, _, shown = prompt[:-1].partition("=")
        task = by_prompt[f"{question}="]
        right = [_right(task, one) for one in shown.split("|")]
        if prompt.endswith("!"):
            assert _right(task, answer)
        else:
            assert len(right) == 1 or right in ([True, False], [False, True])
            assert answer == {(True,): "y", (False,): "n", (True, False): "a", (False, True): "b"}[tuple(right)]
    said = [answer for prompt, answer in found if prompt.endswith("?")]
    assert [said.count(letter) for letter in "ynab"] == [50, 50, 25, 25]
    kept = sum(_right(by_prompt[p[:9]], p[9:-1]) for p, _ in found if p.endswith("!"))
    assert abs(kept - 50) < 25  # a quarter of 200, 4 standard deviations


def test_the_warm_start_sees_no_question_of_a_held_out_pool() -> None:
    """Neither solved nor judged nor corrected: 200 rows of training are in 900 examples, 24 of the other pools are in none."""
    rows = build_pools(spark.rows(range(8, 10), train=100, val=6, test=6), lambda pool: len(pool))
    warm = spark.counter(range(8, 10), steps=1).warm_start
    shown = {prompt.partition("=")[0] for prompt, _ in pairs(rows, warm, seed=0)}
    held = {row.prompt.partition("=")[0] for row in rows if row.split != "train"}
    assert len(held) == 24 and not shown & held
    assert shown == {row.prompt.partition("=")[0] for row in rows if row.split == "train"}


def test_random_labels_teach_nothing_but_the_letters() -> None:
    tasks = _tasks()
    config = GeneratedWarmStart(point=20.0, pair=0.0, reflect=0.0, labels="random")
    by_prompt = {task.prompt: task for task in tasks}
    agree = [(answer == "y") == _right(by_prompt[p[:9]], p[9:-1]) for p, answer in examples(tasks, config, seed=0)]
    assert len(agree) == 2000
    assert abs(sum(agree) - 1000) < 100  # 4.5 standard deviations


def test_equal_seeds_make_equal_examples() -> None:
    config = GeneratedWarmStart()
    assert examples(_tasks(), config, seed=5) == examples(_tasks(), config, seed=5)
    assert examples(_tasks(), config, seed=5) != examples(_tasks(), config, seed=6)


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="shares >= 0"):
        GeneratedWarmStart(point=-1.0)
    with pytest.raises(ConfigError, match="confirm_share"):
        GeneratedWarmStart(confirm_share=1.5)


def test_one_evolution_judges_and_corrects(tmp_path: Path) -> None:
    """Few steps: every part of the loop is there, generated tasks are attempted, and reflection counts its calls."""
    changes = {
        "iterations": 1,
        "inner_steps": 4,
        "curriculum": {"prompts": 16, "generated": {"prompts": 12}},
        "dataset_prep": {"initial": {"warm_start": {"steps": 40}}},
    }
    recipe = configs.merge(spark.tiny(), changes)
    workspace = create_workspace(tmp_path, "spark-test")
    outcome = evolve(LocalRunner(workspace, threads=1), recipe)
    fused = next(e for e in workspace.ledger.of("stage") if e.body["stage"] == "fused")
    assert fused.body["metrics"]["reward/num_rollouts"] > 16 * 8  # more than the solve prompts alone
    assert outcome.state.generated is not None
    cache = Tasks(workspace.cas.get(outcome.state.generated.digest)).read()
    assert {row.arm for row in cache} <= {"judge-point", "judge-pair", "reflect-answer"}
    summary = Evaluation(workspace.cas.get(outcome.champion_test.digest)).read_json("summary.json")
    reflected = summary["splits"]["id"]["reflected"]
    assert 1.0 <= reflected["calls_mean"] <= reflected["calls_max"] <= 5
    kinds = summary["judge"]["kinds"]
    assert set(kinds) == {"judge-point", "judge-pair"}
    assert spark.arm(6) in summary["splits"]["id"]["arms"]


def _right(task: TaskRow, answer: str) -> bool:
    verdict = verify(dataclasses.replace(task), answer, "line")
    assert isinstance(verdict, Score) and json.loads(task.reference)["answer"]
    return verdict.correct == 1.0


@pytest.mark.parametrize("scale", ["tiny", "small", pytest.param("paper", marks=pytest.mark.slow)])
def test_the_tasks_of_an_evaluation_by_suite_have_the_anchors(scale: str, tmp_path: Path) -> None:
    from instar.pipelines.evaluation import pools

    tasks = pools(spark.SPARK.recipe(scale), "spark-x-seed0", tmp_path / "tasks")
    assert sum(row.split == "anchor" for row in tasks.read()) > 0


@pytest.mark.slow
def test_judging_rises_above_chance_and_solving_does_not_pay_for_it(tmp_path: Path) -> None:
    """The toy run of the specification, 60 updates of the tiny recipe, in three worlds; each policy against its own base.

    All is measured on tasks that chose nothing. After so few updates worlds differ much, so the claim is about their mean.
    """
    recipe = configs.merge(spark.tiny(), {"iterations": 1, "inner_steps": 60, "gate": {"select": "last"}})
    own, solved = [], []
    for world in range(3):
        workspace = create_workspace(tmp_path / str(world), f"spark-toy-seed{world}")
        outcome = evolve(LocalRunner(workspace, threads=1), recipe)
        before, after = (
            Evaluation(workspace.cas.get(made.digest)).read_json("summary.json")
            for made in (outcome.base_test, outcome.champion_test)
        )
        judged = [found["splits"]["id"]["own"]["balanced_accuracy"] for found in (before, after)]
        own.append(judged[1] - judged[0])
        solved.append(after["splits"]["id"]["score"] - before["splits"]["id"]["score"])
        assert after["splits"]["id"]["own"]["low"] > 0.5 and after["judge"]["low"] > 0.5
    assert mean(own) > 0.05 and mean(solved) > 0.02, (own, solved)
