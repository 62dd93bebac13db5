"""Recipes whose pieces do not fit are refused when they are built; every curriculum closes with every update preset."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from instar import config as configs
from instar.components.continuous.config import DecisionMambaArch
from instar.components.dataset_prep.offline.config import OfflineConfig
from instar.components.reward.config import RefineConfig, VerifyConfig
from instar.components.update.config import PolicyGradientConfig
from instar.components.update.presets import PRESETS
from instar.components.update.sequence.config import SequenceConfig
from instar.errors import ConfigError
from instar.pipelines.composition import PIECES, alternatives
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import build
from instar.rows import ArmStatsRow, BatchRow, RolloutRow, ScoreRow, TaskRow
from instar.schema import fields

CURRICULA = ["uniform", "best", "ordered", "reverse", "sec", "proximal", "learnability", "thompson"]


@pytest.mark.parametrize("name", CURRICULA)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_curriculum_closes_with_every_update(name: str, preset: str) -> None:
    steps = {"steps": 10} if name in ("ordered", "reverse") else {}
    changes = {"curriculum": {"strategy": name, **steps}, "update": configs.to_dict(PRESETS[preset])}
    recipe = configs.merge(build("sec", "tiny"), changes)
    assert recipe.curriculum.strategy == name
    assert isinstance(recipe.update, PolicyGradientConfig) and recipe.update.preset == preset


def test_a_signal_that_the_update_does_not_provide_is_refused() -> None:
    changes = {"curriculum": {"mode": "fixed"}, "update": {"baseline": "batch", "scale": "none", "min_group": 1}}
    with pytest.raises(ConfigError, match="sum_abs_advantage_correct"):
        configs.merge(build("sec", "tiny"), changes)


def test_an_answer_style_that_reads_no_answer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reward\.style"):
        configs.merge(build("sec", "tiny"), {"reward": {"style": "boxed"}})


def test_oversampling_without_a_filter_is_refused() -> None:
    with pytest.raises(ConfigError, match="keep_prompts"):
        configs.merge(build("sec", "tiny"), {"curriculum": {"oversample": 2.0}})
    fits = {"curriculum": {"oversample": 2.0}, "update": {"filter": {"kind": "zero_variance", "keep_prompts": 64}}}
    assert configs.merge(build("sec", "tiny"), fits).curriculum.slots == 128


OFFLINE = {
    "uniform": {},
    "best": {},
    "ordered": {"steps": 10},
    "reverse": {"steps": 10},
    "sec": {"signal": "loss_change"},
}


@pytest.mark.parametrize(
    ("assignment", "where", "action"),
    [
        ('test.splits=["id", "ood"]', "recipe.test.splits", "remove ood from test.splits"),
        ('evaluate.splits=["id"]', "recipe.evaluate.splits", "add val to evaluate.splits"),
        ("update.min_group=9", "recipe.update.min_group", "set update.min_group to at most 8"),
        ("update.minibatches=81", "recipe.update.minibatches", "set update.minibatches to at most 80"),
        ("update.arm_weights={judge-points = 2}", "recipe.update.arm_weights", "did you mean 'judge-point'?"),
    ],
)
def test_names_and_sizes_that_no_other_piece_knows_are_refused(assignment: str, where: str, action: str) -> None:
    """They would end a run after its training, or change nothing of it."""
    with pytest.raises(ConfigError) as caught:
        configs.merge(build("spark", "tiny"), configs.parse_set([assignment]))
    assert caught.value.where == where and action in caught.value.action


def test_weights_of_arms_and_generated_kinds_are_taken() -> None:
    sets = ["update.arm_weights={judge-point = 2, ones-06 = 0}"]
    recipe = configs.merge(build("spark", "tiny"), configs.parse_set(sets))
    assert isinstance(recipe.update, PolicyGradientConfig) and recipe.update.arm_weights["judge-point"] == 2
    alone = ["update.arm_weights={judge-point = 2}", "reward.recycle=none", "curriculum.generated=none"]
    with pytest.raises(ConfigError, match="arm_weights"):
        configs.merge(build("spark", "tiny"), configs.parse_set(alone))


@pytest.mark.parametrize("name", OFFLINE)
def test_every_curriculum_that_needs_no_verdict_drives_decision_mamba(name: str) -> None:
    recipe = configs.merge(build("decision_mamba", "tiny"), {"curriculum": {"strategy": name, **OFFLINE[name]}})
    assert (recipe.curriculum.strategy, recipe.curriculum.prompts, recipe.curriculum.group_size) == (name, 6400, 1)


@pytest.mark.parametrize(
    ("recipe", "changes", "column", "able"),
    [
        (
            "decision_mamba",
            {"curriculum": {"strategy": "thompson"}},
            "stats.sum_correct",
            "update.strategy=policy_gradient",
        ),
        (
            "decision_mamba",
            {"curriculum": {"strategy": "proximal"}},
            "stats.sum_correct",
            "update.strategy=policy_gradient",
        ),
        ("decision_mamba", {"curriculum": {"strategy": "learnability"}}, "stats.sum_correct", "policy_gradient"),
        (
            "decision_mamba",
            {"curriculum": {"strategy": "sec", "signal": "abs_centred", "group_size": 2}},
            "stats.sum_abs_centred",
            "update.strategy=policy_gradient",
        ),
        (
            "decision_mamba",
            {"curriculum": {"strategy": "sec", "objective": "progress"}},
            "stats.sum_reward",
            "update.strategy=policy_gradient",
        ),
        ("decision_mamba", {"reward": {"strategy": "verify"}}, "rollouts.token_ids", "rollout.strategy=sample"),
        (
            "decision_mamba",
            {"update": {"strategy": "policy_gradient"}},
            "rollouts.behaviour_logprobs",
            "rollout.strategy=sample",
        ),
        (
            "decision_mamba",
            {"evaluate": {"strategy": "answer", "max_new_tokens": 5}},
            "tasks.prompt",
            "dataset_prep.strategy=text",
        ),
        ("decision_mamba", {"rollout": {"act": False}}, "rollouts.actions", "rollout.strategy=propose"),
        ("sec", {"curriculum": {"signal": "loss_change"}}, "stats.sum_loss_change", "update.strategy=sequence"),
        ("sec", {"reward": {"strategy": "refine"}}, "data.rewards", "dataset_prep.strategy=offline"),
        ("sec", {"evaluate": {"strategy": "simulate"}}, "tasks.features", "dataset_prep.strategy=offline"),
        ("sec", {"rollout": {"strategy": "propose"}}, "data.actions", "dataset_prep.strategy=offline"),
    ],
)
def test_a_chain_that_does_not_close_names_the_column_who_reads_it_and_who_fills_it(
    recipe: str, changes: dict[str, Any], column: str, able: str
) -> None:
    with pytest.raises(ConfigError) as error:
        configs.merge(build(recipe, "tiny"), changes)
    assert error.value.expected.startswith(f"column {column}, which ") and able in error.value.action


def test_several_rollouts_of_a_deterministic_policy_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_size"):
        configs.merge(build("decision_mamba", "tiny"), {"curriculum": {"group_size": 4}})


def test_every_column_a_strategy_names_exists() -> None:
    tables = {
        "tasks": TaskRow,
        "data": RolloutRow,
        "batch": BatchRow,
        "rollouts": RolloutRow,
        "scores": ScoreRow,
        "stats": ArmStatsRow,
    }
    known = {f"{table}.{field.name}" for table, row in tables.items() for field in fields(row)}
    hints = get_type_hints(Recipe)
    for name in PIECES:
        for option in alternatives(hints[name]):
            named = getattr(option, "REQUIRES", frozenset()) | getattr(option, "PROVIDES", frozenset())
            assert named <= known, (name, named - known)


def test_a_strategy_switch_keeps_what_all_strategies_share() -> None:
    switched = configs.merge(build("sec", "tiny"), {"curriculum": {"prompts": 32}})
    switched = configs.merge(switched, {"curriculum": {"strategy": "thompson"}})
    assert (switched.curriculum.strategy, switched.curriculum.prompts) == ("thompson", 32)


def test_the_published_decision_mamba_resolves() -> None:
    """The settings of the released scripts (section 5 of the paper's code): 40 stages of 2500 updates of 64 windows."""
    recipe = build("decision_mamba", "paper")
    assert isinstance(recipe.update, SequenceConfig) and isinstance(recipe.reward, RefineConfig)
    assert isinstance(recipe.dataset_prep, OfflineConfig)
    arch = recipe.dataset_prep.arch
    assert isinstance(arch, DecisionMambaArch)
    assert (arch.layers, arch.width, arch.state_size, arch.window) == (24, 768, 16, 20)
    assert recipe.iterations == 40 and recipe.curriculum.prompts == 2500 * recipe.update.batch == 160_000
    assert (recipe.update.lr, recipe.update.warmup_steps, recipe.update.max_grad_norm) == (1e-4, 2500, 0.25)
    assert recipe.update.weights == (0.9, 0.05, 0.05)
    assert [recipe.reward.beta(k) for k in (1, 2, 20, 24, 40)] == pytest.approx([0.0, 0.0425, 0.425, 0.5, 0.5])


@pytest.mark.parametrize("scale", ["single", "paper"])
def test_published_scales_resolve(scale: str) -> None:
    recipe = build("sec", scale)
    assert isinstance(recipe.update, PolicyGradientConfig) and isinstance(recipe.reward, VerifyConfig)
    assert recipe.update.lr == 1e-6
    assert recipe.update.kl.place == "none"
    assert recipe.reward.format_reward == 0.1
    if scale == "paper":
        assert (recipe.curriculum.prompts, recipe.curriculum.group_size, recipe.update.minibatches) == (256, 8, 4)
        assert recipe.iterations * recipe.inner_steps == 240
