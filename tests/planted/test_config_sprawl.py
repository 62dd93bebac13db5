"""Row 15, configuration sprawl: a typo is an error that names the key meant, and a recipe stays a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from instar import config as configs
from instar.cli.resolve import resolve
from instar.components.update.config import PolicyGradientConfig
from instar.errors import ConfigError
from instar.pipelines.recipes import METHODS, build


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("curriculum.tua=1", "tau"),
        ("update.filter.knd='none'", "kind"),
        ("rollout.max_new_token=3", "max_new_tokens"),
        ("inner_step=3", "inner_steps"),
        ("curriculum.strategy=thomson", "thompson"),
    ],
)
def test_a_typo_names_what_was_meant(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.merge(build("sec", "tiny"), configs.parse_set([typo]))
    assert meant in caught.value.action


@pytest.mark.parametrize("key", ["update.zzz", "update.REQUIRES", "update.requires"])
def test_only_fields_are_keys(key: str) -> None:
    """Constants and methods of a configuration's class are neither taken nor suggested."""
    with pytest.raises(ConfigError) as caught:
        configs.merge(build("sec", "tiny"), configs.parse_set([f"{key}=1"]))
    assert caught.value.expected == "a key of PolicyGradientConfig"
    assert "REQUIRES" not in caught.value.action and "PROVIDES" not in caught.value.action


@pytest.mark.parametrize(
    ("assignment", "where", "action"),
    [
        ("update.lr=-1", "update.lr", "set update.lr to a value > 0; left out, it is 0.0005"),
        ("update.lr=abc", "sec.update.lr", "write a number, such as 0.5; left out, it is 0.0005"),
        ("rollout.stop=5", "sec.rollout.stop", 'write a list in brackets, such as ["a", "b"]; left out, it is []'),
        ("update.device=gpu", "sec.update.device", "did you mean 'cpu'?"),
        ("test.samples=-1", "test.samples", "set test.samples to a value >= 0; left out, it is 4"),
        ("gate.patience=-1", "gate.patience", "set gate.patience to a value >= 0; left out, it is 0"),
        (
            "evaluate.min_pairs=1",
            "evaluate.min_pairs",
            "set evaluate.min_pairs to a value >= 2; left out, it is 20",
        ),
        ("iterations=-1", "iterations", "set iterations to a value >= 0"),
        (
            "curriculum.generated.prompts=0",
            "curriculum.generated.prompts",
            "set curriculum.generated.prompts to a value >= 1",
        ),
        ("curriculum.generated.mode=mixed", "sec.curriculum.generated.prompts", "set prompts as well"),
        ("update.kl.place=loss", "update.kl.coef", "set update.kl.coef to a value > 0; or set update.kl.place=none"),
    ],
)
def test_an_error_says_what_to_write(assignment: str, where: str, action: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.merge(build("sec", "tiny"), configs.parse_set([assignment]), where="sec")
    assert (caught.value.where, caught.value.action) == (where, action)


@pytest.mark.parametrize(
    ("recipe", "assignments", "action"),
    [
        ("sec", ["update.kl.coef=0.1"], "leave it out, or set kl.place=loss or reward"),
        (
            "sec",
            ["update.filter.high=0.9", "update.filter.kind=zero_variance"],
            "leave it out, or set filter.kind=band",
        ),
        ("sec", ["update.overlong.buffer=9"], "leave it out, or set overlong.kind=soft"),
        ("sec", ["update.mismatch.agg=sum"], "leave it out, or set mismatch.kind=seq_trunc or seq_mask"),
        ("sec", ["update.mismatch.high=3"], "leave it out, or set a mismatch.kind other than off"),
        ("sec", ["update.gamma=0.9"], "leave it out, or set update.baseline=critic"),
        ("sec", ["update.objective=reinforce", "update.clip_low=0.1"], "leave it out, or set update.objective=clip"),
        ("sec", ["update.max_length=9"], "leave it out, or set update.aggregate=constant"),
        ("sec", ["update.total_steps=9"], "leave it out, or set update.schedule=linear or cosine"),
        ("sec", ["curriculum.epsilon=0.2"], "leave it out, or set curriculum.method=greedy"),
        ("sec", ["curriculum.method=greedy", "curriculum.tau=1"], "leave it out, or set curriculum.method=boltzmann"),
        ("sec", ["gate.min_delta=0.1"], "leave it out, or set gate.patience"),
        ("sec", ["test.samples=0", "test.temperature=2", "test.greedy=true"], "leave it out, or set samples > 0"),
        ("spark", ["test.reflect.mode=published", "test.reflect.margin=0"], "leave it out, or set reflect.mode=gated"),
        (
            "spark",
            ["curriculum.strategy=sec", "curriculum.epsilon=0.2"],
            "leave it out, or set curriculum.method=greedy",
        ),
        (
            "decision_mamba",
            ["reward.schedule=fixed", "reward.stages=3"],
            "leave it out, or set reward.schedule=progressive",
        ),
        ("decision_mamba", ["update.total_steps=9"], "leave it out, or set update.schedule=linear or cosine"),
        ("decision_mamba", ["dataset_prep.noise.std=0.5"], "leave it out, or set noise.share > 0"),
        ("decision_mamba", ["dataset_prep.noise.share=0.5"], "leave it out, or set noise.std > 0"),
        (
            "decision_mamba",
            ["dataset_prep.probes=[]", "dataset_prep.probe_episodes=7"],
            "leave it out, or set dataset_prep.probes with a return",
        ),
        (
            "decision_mamba",
            ["rollout.act=false", "reward.schedule=none", "rollout.max_windows=9"],
            "leave it out, or set rollout.act=true",
        ),
        (
            "decision_mamba",
            ["dataset_prep.arch.strategy=bc", "update.weights=[1.0, 0.2, 0.2]"],
            "leave it out, or set a policy with dataset_prep.arch.auxiliary=true",
        ),
        (
            "decision_mamba",
            ["dataset_prep.arch.auxiliary=false", "update={weights=[1.0, 0.2, 0.2]}"],
            "leave it out, or set a policy with dataset_prep.arch.auxiliary=true",
        ),
        (
            "decision_mamba",
            ["dataset_prep.arch.strategy=decision_transformer", "update.decay_ssm_params=true"],
            "leave it out, or set dataset_prep.arch.strategy=decision_mamba",
        ),
        (
            "spark",
            ["reward.recycle.rule.known_wrong_share=0.9"],
            "leave it out, or set recycle.wording=words or few_shot",
        ),
        ("sec", ["rollout.engine.lora_rank=8"], "leave it out, or set engine.name=vllm"),
        ("sec", ["evaluate.engine.memory_share=0.9"], "leave it out, or set engine.name=vllm"),
        (
            "sec",
            ["test.engine.name=vllm", "test.engine.forward=stock"],
            "leave it out, or set engine.name=transformers",
        ),
        ("sec", ["update.collective_timeout_s=5"], "leave it out, or set update.processes above 1"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(recipe: str, assignments: list[str], action: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.merge(build(recipe, "tiny"), configs.parse_set(assignments), where=recipe)
    assert caught.value.action == action
    assert caught.value.where.startswith(
        tuple(f"{recipe}.{assignment.partition('=')[0]}" for assignment in assignments)
    )


def test_what_a_recipe_sets_for_another_choice_may_stay() -> None:
    """sec sets clip_high, which reinforce does not read: only what is given has to have an effect."""
    recipe = configs.merge(build("sec", "tiny"), configs.parse_set(["update.objective=reinforce", "update.gamma=1.0"]))
    assert isinstance(recipe.update, PolicyGradientConfig) and recipe.update.clip_high == 0.2


@pytest.mark.parametrize(
    ("content", "sets", "where"),
    [
        ("curriculum.epsilon = 0.2", ["curriculum.method=greedy"], None),
        ("curriculum.epsilon = 0.2", ["curriculum.alpha=0.2"], "curriculum.epsilon"),
        ("curriculum.epsilon = 0.2", [], "curriculum.epsilon"),
        ("curriculum.epsilon = 0.2\ncurriculum.method = 'greedy'", ["curriculum.strategy=uniform"], None),
        ("update.kl = {place = 'loss', coef = 0.1}", ["update.kl.place=none"], None),
    ],
)
def test_what_reads_a_setting_of_a_file_may_be_given_beside_it(
    content: str, sets: list[str], where: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "changes.toml"
    file.write_text(content)
    if where is None:
        resolve("sec", "tiny", None, file, sets)
        return
    with pytest.raises(ConfigError) as caught:
        resolve("sec", "tiny", None, file, sets)
    assert caught.value.where == f"{file}.{where}"


def test_a_table_for_a_part_that_was_absent_is_looked_at_too() -> None:
    """sec has no reflection: the whole table is given, and its margin has no effect beside its mode."""
    sets = ["dataset_prep.anchors={wording='terse'}", "evaluate.judge={wording='terse'}"]
    sets += ["evaluate.reflect={mode='published', margin=0.1}"]
    with pytest.raises(ConfigError) as caught:
        resolve("sec", "tiny", None, None, sets)
    assert caught.value.where == "sec.evaluate.reflect.margin"


@pytest.mark.parametrize(
    ("assignment", "action"),
    [
        ("scale=small", "choose --scale"),
        ("name=spark", "choose another recipe"),
        ("paper=mine", "choose another recipe"),
    ],
)
def test_a_recipe_cannot_be_called_what_it_is_not(assignment: str, action: str, tmp_path: Path) -> None:
    """A run of the tiny recipe said of itself that it was at scale small."""
    with pytest.raises(ConfigError) as caught:
        resolve("sec", "tiny", None, None, [assignment])
    assert caught.value.action.startswith(action)
    file = tmp_path / "changes.toml"
    file.write_text("name = 'sec'\nscale = 'tiny'\n")
    assert resolve("sec", "tiny", None, file, []) == build("sec", "tiny")


def test_the_name_of_a_strategy_alone_means_its_field() -> None:
    """`update=policy_gradient` set the learning rate back to 1e-6, which nobody asked for."""
    assert resolve("sec", "tiny", None, None, ["update=policy_gradient"]) == build("sec", "tiny")
    short, long = (resolve("sec", "tiny", None, None, [f"curriculum{end}=thompson"]) for end in ("", ".strategy"))
    assert short == long


def test_the_resolved_recipe_is_what_the_ledger_stores() -> None:
    """Resolved JSON builds the very same recipe again: no value hides outside of it."""
    for name, method in METHODS.items():
        for scale in method.scales:
            recipe = build(name, scale)
            assert configs.from_dict(type(recipe), configs.to_dict(recipe)) == recipe


MAY_BE_NEGATIVE = {"update.entropy_coef", "evaluate.reflect.least_gain", "test.reflect.least_gain"}
"""A negative bonus is a penalty, which some train with; a negative gain is a loss that reflection may cost."""


def _numbers(value: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, inner in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(inner, Mapping):
            yield from _numbers(inner, name)
        elif isinstance(inner, int | float) and not isinstance(inner, bool):
            yield name


@pytest.mark.parametrize("name", ["sec", "spark", "decision_mamba"])
def test_a_number_below_zero_is_refused_wherever_one_stands(name: str) -> None:
    """A model of no heads ended in ZeroDivisionError, and a warm start at a negative rate unlearned."""
    numbers = set(_numbers(configs.to_dict(build(name, "tiny")))) - MAY_BE_NEGATIVE
    assert {"iterations", "update.lr"} <= numbers
    for key in sorted(numbers):
        with pytest.raises(ConfigError):
            resolve(name, "tiny", None, None, [f"{key}=-1"])


@pytest.mark.parametrize(
    "key", ["model.heads", "model.layers", "warm_start.steps", "warm_start.batch", "warm_start.lr"]
)
def test_a_start_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"set dataset_prep\.initial\.{key} to a value >"):
        resolve("sec", "tiny", None, None, [f"dataset_prep.initial.{key}=0"])
