"""Recipes whose pieces do not fit are refused when they are built; every curriculum closes with every update preset."""

from __future__ import annotations

import pytest

from instar import config as configs
from instar.components.update.presets import PRESETS
from instar.errors import ConfigError
from instar.pipelines.recipes import build

CURRICULA = ["uniform", "ordered", "reverse", "sec", "proximal", "learnability", "thompson"]


@pytest.mark.parametrize("name", CURRICULA)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_curriculum_closes_with_every_update(name: str, preset: str) -> None:
    steps = {"steps": 10} if name in ("ordered", "reverse") else {}
    changes = {"curriculum": {"strategy": name, **steps}, "update": configs.to_dict(PRESETS[preset])}
    recipe = configs.merge(build("sec", "tiny"), changes)
    assert recipe.curriculum.strategy == name
    assert recipe.update.preset == preset


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


def test_a_strategy_switch_keeps_what_all_strategies_share() -> None:
    switched = configs.merge(build("sec", "tiny"), {"curriculum": {"prompts": 32}})
    switched = configs.merge(switched, {"curriculum": {"strategy": "thompson"}})
    assert (switched.curriculum.strategy, switched.curriculum.prompts) == ("thompson", 32)


@pytest.mark.parametrize("scale", ["single", "paper"])
def test_published_scales_resolve(scale: str) -> None:
    recipe = build("sec", scale)
    assert recipe.update.lr == 1e-6
    assert recipe.update.kl.place == "none"
    assert recipe.reward.format_reward == 0.1
    if scale == "paper":
        assert (recipe.curriculum.prompts, recipe.curriculum.group_size, recipe.update.minibatches) == (256, 8, 4)
        assert recipe.iterations * recipe.inner_steps == 240
