"""`instar explain` for both kinds of recipe: what it says is what the configuration does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from instar import config as configs
from instar.cli.explain import explain
from instar.components.continuous.config import BcArch, DecisionMambaArch, DecisionTransformerArch
from instar.components.curriculum.config import BestConfig, GeneratedDraw, SecConfig, UniformConfig
from instar.components.dataset_prep.offline.config import NoiseConfig, OfflineConfig
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.generated.anchors import AnchorConfig
from instar.components.generated.rule import Rule
from instar.components.reward.config import RecycleConfig, RefineConfig
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import METHODS, build
from instar.pipelines.recipes.spark import counter, published

PSER = RefineConfig(beta_end=0.85, beta_cap=0.5, stages=6)


def control(**changes: Any) -> Recipe:
    """The recipe at tiny with the numbers of these tests, whatever its own are."""
    made = build("decision_mamba", "tiny")
    drawn = UniformConfig(prompts=6400, group_size=1)
    return dataclasses.replace(made, **{"reward": PSER, "curriculum": drawn, "iterations": 6, **changes})


def prepared(**changes: Any) -> OfflineConfig:
    return dataclasses.replace(build("decision_mamba", "tiny").dataset_prep, **changes)  # type: ignore[type-var, return-value]


def sections(text: str) -> dict[str, str]:
    """Return the text of each section, lines joined."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines()[2:]:
        title = line[:13].strip() or title
        found.setdefault(title, []).append(line[13:].strip())
    return {name: " ".join(lines) for name, lines in found.items()}


@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name, method in METHODS.items() for scale in method.scales]
)
def test_every_recipe_fits_the_page_and_names_its_digest(name: str, scale: str) -> None:
    recipe = build(name, scale)
    lines = explain(recipe).splitlines()
    assert lines[0].startswith(f"{name} at scale {scale} (") and lines[0].endswith(configs.digest(recipe)[:12])
    assert max(map(len, lines)) <= 120


def test_the_schedule_is_the_one_that_the_reward_uses() -> None:
    """beta_k = min(0.5, 0.85 k / 6): 0.85 * 2 / 6 = 0.283, 0.85 * 3 / 6 = 0.425, then the cap; none in iteration 1."""
    target = sections(explain(control()))["target"]
    assert "min(0.5, 0.85 k/6): 0, 0.283, 0.425, 0.5, 0.5, 0.5" in target
    fixed = control(reward=RefineConfig(schedule="fixed", beta_cap=0.3))
    assert "beta_k = 0.3: 0, 0.3, 0.3, 0.3, 0.3, 0.3" in explain(fixed)
    plain = control(reward=RefineConfig(schedule="none"))
    assert "beta" not in sections(explain(plain))["target"] and "--pskd False" in explain(plain)


def test_the_released_code_grows_beta_over_its_iterations() -> None:
    """0.85 / 40 per iteration for 6 iterations ends at 0.1275; the release divides by --max_iters, which is 6 here."""
    text = explain(control(reward=RefineConfig(beta_end=0.85, stages=40)))
    assert "--alpha_T 0.1275 --lower_bound 0.5" in text and "--max_iters 6" in text


def test_a_long_schedule_is_cut_but_its_end_is_shown() -> None:
    assert "0, 0.0425, 0.0638, 0.085, 0.106, 0.128, ..., 0.5" in explain(build("decision_mamba", "paper"))


def test_updates_are_counted_from_windows() -> None:
    """6400 windows, 64 a step, 6 iterations; the paper's 40 stages of 2500."""
    assert "100 optimiser steps, 600 in all" in explain(control())
    paper = explain(build("decision_mamba", "paper"))
    assert "2500 optimiser steps, 100000 in all" in paper
    assert "--max_iters 40 --batch_size 64 --num_steps_per_iter 2500" in paper


@pytest.mark.parametrize(
    ("arch", "policy", "loss"),
    [
        (DecisionMambaArch(), "(a_t-1, R_t, s_t); fusion two_mixers", "0.05 mean Huber(s_hat_t+1"),
        (DecisionMambaArch(fine=False), "no fine scan", "0.05 mean Huber(s_hat_t+1"),
        (DecisionMambaArch(grouping="released"), "and of a_t: the target leaks", "0.9 mean |a_hat_t"),
        (DecisionMambaArch(auxiliary=False), "never of a_t; encoder", "L = mean |a_hat_t - a~_t|^2, over"),
        (DecisionTransformerArch(heads=4), "causal attention with 4 head(s)", "L = mean |a_hat_t"),
        (BcArch(), "no return, no history", "L = mean |a_hat_t"),
    ],
)
def test_the_policy_decides_what_is_predicted(arch: Any, policy: str, loss: str) -> None:
    found = sections(explain(control(dataset_prep=prepared(arch=arch))))
    assert policy in found["policy"]
    assert loss in found["loss"]


def test_curricula_speak_of_slices() -> None:
    best = explain(control(curriculum=BestConfig(prompts=640, group_size=1, share=0.1)))
    assert "until they hold 10% of the training slices" in best and "--pct_traj 0.1" in best
    bandit = explain(control(curriculum=SecConfig(prompts=640, group_size=1, signal="loss_change")))
    assert "fall of the arm's loss" in bandit and "one draw per slice" in bandit
    assert "prompt" not in bandit


def test_data_noise_and_probes_are_said_where_they_are_set() -> None:
    plain, noisy = explain(control()), explain(control(dataset_prep=prepared(noise=NoiseConfig(share=0.3, std=1.0))))
    assert "Gaussian" not in plain and "noise of 1 on the actions of 30% of all steps" in noisy
    asked = explain(control(dataset_prep=prepared(target=-150.0, probes=(-900.0,), buckets=4)))
    assert "a return of -150" in asked and "(-900)" in asked and "4 quantiles of the return" in asked
    assert "probes" not in explain(control(dataset_prep=prepared(probes=())))


def test_text_recipes_keep_their_libraries_and_control_recipes_have_none() -> None:
    sec, mamba = explain(build("sec", "tiny")), explain(control())
    assert "TRL 1.16" in sec and "released code" not in sec
    assert "released code" in mamba and not any(name in mamba for name in ("TRL", "verl", "OpenRLHF"))


def spark(**changes: Any) -> Recipe:
    """Sorting with SPARK's labelling, whatever the recipe of that name is."""
    made = build("sec", "tiny")
    reward = dataclasses.replace(
        made.reward, recycle=RecycleConfig(wording="terse", rule=Rule(judges=8, reflections=4))
    )
    drawn = UniformConfig(prompts=48, group_size=8, generated=GeneratedDraw(prompts=16))
    judge, reflect = JudgeConfig(wording="terse", anchors=24), ReflectConfig()
    evaluate = dataclasses.replace(made.evaluate, judge=judge)
    test = dataclasses.replace(made.test, judge=judge, reflect=reflect)
    prep = dataclasses.replace(
        made.dataset_prep, anchors=AnchorConfig(wording="terse"), initial=counter(range(3, 5), steps=1)
    )  # type: ignore[call-arg]
    pieces = {"dataset_prep": prep, "reward": reward, "curriculum": drawn, "evaluate": evaluate, "test": test}
    return dataclasses.replace(made, **{**pieces, **changes})  # type: ignore[arg-type]


def test_own_tasks_judge_and_reflection_are_said_from_the_settings() -> None:
    found = sections(explain(spark()))
    assert "at most 8 judging tasks and 4 correction tasks" in found["own tasks"]
    assert "right as often as wrong, whatever the accuracy" in found["own tasks"]
    assert "up to 16 of them are drawn on top of every batch, the oldest first, 8 rollouts each" in found["own tasks"]
    assert "never a reward" in found["judge"] and "24 questions a kind" in found["judge"]
    assert "at most 2 round(s)" in found["reflection"] and "at most 5 calls" in found["reflection"]
    assert "on single answers lies above 0.55" in found["reflection"]
    assert max(map(len, explain(spark()).splitlines())) <= 120


def test_published_rule_and_reflection_are_said_to_be_what_they_are() -> None:
    made = spark()
    reward = dataclasses.replace(made.reward, recycle=published("terse"))
    drawn = UniformConfig(prompts=64, group_size=8, generated=GeneratedDraw(prompts=64, mode="alternate"))
    test = dataclasses.replace(made.test, reflect=ReflectConfig(mode="published", rounds=1))
    found = sections(explain(dataclasses.replace(made, reward=reward, curriculum=drawn, test=test)))
    assert "labels follow the accuracy of the policy" in found["own tasks"]
    assert (
        "0% of the attempts in correction tasks are right" in found["own tasks"]
        and "count as wrong" in found["own tasks"]
    )
    assert "any number of tasks, of any age" in found["own tasks"]
    assert "when 64 of them wait, they are a batch of their own" in found["own tasks"]
    assert "at most 3 calls" in found["reflection"] and "a judge that guesses costs points" in found["reflection"]


def test_recipes_without_a_judge_do_not_speak_of_one() -> None:
    plain = explain(build("sec", "tiny"))
    assert not {"own tasks", "judge", "reflection"} & sections(plain).keys()
    unmeasured = spark(evaluate=build("sec", "tiny").evaluate, test=build("sec", "tiny").test)
    assert "not measured" in sections(explain(unmeasured))["judge"]
    assert "reflection" not in sections(explain(unmeasured))


def test_a_bound_that_is_never_reached_is_called_that() -> None:
    """With one optimiser step per batch the policy is the one that is divided by: `clip_high` of .2 and .9 train the same."""
    once = "w is 1 in the only step of a batch"
    for name in ("sec", "spark"):
        recipe = build(name, "tiny")
        assert once in sections(explain(recipe))["loss"]
        for setting in ("epochs", "minibatches"):
            twice = dataclasses.replace(recipe.update, **{setting: 2})  # type: ignore[arg-type]
            assert once not in sections(explain(dataclasses.replace(recipe, update=twice)))["loss"]
