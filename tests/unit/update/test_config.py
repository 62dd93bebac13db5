"""Presets are complete and survive JSON; settings known to train the wrong thing are refused with their name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from instar import config as configs
from instar.cli.resolve import resolve
from instar.components.update.config import Filter, Kl, LoraConfig, Mismatch, Overlong, PolicyGradientConfig
from instar.components.update.presets import AXES, PRESETS, preset
from instar.errors import ConfigError
from instar.pipelines.recipes import method


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    assert PRESETS[name].preset == name
    again = configs.from_dict(PolicyGradientConfig, json.loads(configs.dumps(PRESETS[name])))
    assert again == PRESETS[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reinforce", ("batch", "none", "token", "reinforce", 0.2, 0.28, "token_mean", "none")),
        ("rloo", ("loo", "none", "token", "clip", 0.2, 0.2, "seq_token_sum", "reward")),
        ("ppo", ("critic", "whiten", "token", "clip", 0.2, 0.2, "token_mean", "reward")),
        ("grpo", ("group", "group_std", "token", "clip", 0.2, 0.2, "seq_token_mean", "loss")),
        ("dr_grpo", ("group", "none", "token", "clip", 0.2, 0.2, "constant", "none")),
        ("dapo", ("group", "group_std", "token", "clip", 0.2, 0.28, "token_mean", "none")),
        ("gspo", ("group", "group_std", "sequence", "clip", 3e-4, 4e-4, "seq_token_mean", "none")),
        ("cispo", ("group", "group_std", "token", "cispo", 0.2, 0.28, "token_mean", "none")),
        ("sec", ("group", "group_std", "token", "clip", 0.2, 0.2, "token_mean", "none")),
        ("spark", ("group", "group_std", "token", "clip", 0.2, 0.2, "token_mean", "loss")),
    ],
)
def test_presets_are_the_published_ones(name: str, expected: tuple[Any, ...]) -> None:
    c = PRESETS[name]
    found = (c.baseline, c.scale, c.ratio, c.objective, c.clip_low, c.clip_high, c.aggregate, c.kl.place)
    assert found == expected


def test_details_of_presets() -> None:
    assert (PRESETS["grpo"].kl.kind, PRESETS["grpo"].kl.coef) == ("k3", 0.001)
    assert (PRESETS["rloo"].kl.kind, PRESETS["rloo"].kl.coef) == ("k1", 0.05)
    assert PRESETS["dapo"].filter.kind == "zero_variance" and PRESETS["dapo"].overlong.kind == "soft"
    assert dataclasses.replace(PRESETS["default"], preset="x").filter.kind == "none"


@pytest.mark.parametrize("name", ["sec", "spark"])
def test_the_objective_of_a_published_recipe_is_that_of_its_preset(name: str) -> None:
    """The numbers stand in both: `--set update.preset=sec` puts SEC's objective over any update."""
    update = method(name).recipe("paper").update
    assert isinstance(update, PolicyGradientConfig) and update.preset == name
    assert {axis: getattr(update, axis) for axis in AXES} == {axis: getattr(PRESETS[name], axis) for axis in AXES}


def test_a_preset_on_the_command_line_brings_its_objective_and_leaves_the_rest() -> None:
    base = resolve("sec", "tiny", None, None, []).update
    assert isinstance(base, PolicyGradientConfig)
    for name, chosen in PRESETS.items():
        update = resolve("sec", "tiny", None, None, [f"update.preset={name}"]).update
        expected = {axis: getattr(chosen, axis) for axis in (*AXES, "preset")}
        assert update == dataclasses.replace(base, **expected)


def test_what_is_given_beside_a_preset_wins(tmp_path: Path) -> None:
    file = tmp_path / "changes.toml"
    file.write_text("[update]\nclip_high = 0.4\npreset = 'grpo'\n")
    update = resolve("sec", "tiny", None, file, ["update.kl.coef=0.05", "update.lr=1e-3"]).update
    assert isinstance(update, PolicyGradientConfig)
    assert (update.kl, update.clip_high, update.lr) == (Kl(place="loss", kind="k3", coef=0.05), 0.4, 1e-3)
    again = resolve("sec", "tiny", None, file, ["update.preset=cispo", "update.cap=2"]).update
    assert isinstance(again, PolicyGradientConfig)
    assert (again.objective, again.cap, again.clip_high, again.kl) == ("cispo", 2, PRESETS["cispo"].clip_high, Kl())


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("grpo", ["update.kl.place=none"]),
        ("rloo", ["update.kl={place='none'}"]),
        ("dapo", ["update.overlong.kind=none", "update.filter.kind=none"]),
        ("dr_grpo", ["update.aggregate=token_mean"]),
        ("cispo", ["update.objective=clip", "update.cap=none"]),
    ],
)
def test_a_part_of_a_preset_can_be_switched_off(name: str, sets: list[str]) -> None:
    """What the preset brings for that part stays in the record without effect, and nobody gave it."""
    update = resolve("sec", "tiny", None, None, [f"update.preset={name}", *sets]).update
    assert isinstance(update, PolicyGradientConfig)
    assert update.preset == name and (update.kl.place, update.overlong.kind, update.filter.kind) == ("none",) * 3


@pytest.mark.parametrize(
    ("recipe", "sets", "said"),
    [
        ("sec", ["update.preset=drgrpo"], "dr_grpo"),
        ("sec", ["update.preset=cispo", "update.cap=0.5"], "update.cap"),
        ("sec", ["update.preset=dapo", "update.filter.low=0.1"], "sec.update.filter.low"),
        ("sec", ["update.preset=grpo", "update.kl.colour=1"], "sec.update.kl.colour"),
        ("decision_mamba", ["update.preset=grpo"], "a key of SequenceConfig"),
    ],
)
def test_presets_that_cannot_be_put_in_place(recipe: str, sets: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(recipe, "tiny", None, None, sets)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="dr_grpo"):
        preset("drgrpo")


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (lambda: Kl(place="loss", kind="k1", coef=0.1), "kl.kind"),
        (lambda: Kl(place="reward", kind="k3", coef=0.1), "kl.kind"),
        (lambda: Kl(place="loss", kind="k2"), "kl.coef"),
        (lambda: PolicyGradientConfig(ratio="sequence", clip_low=0.2, clip_high=0.2), "clip_high"),
        (lambda: PolicyGradientConfig(objective="cispo", cap=0.2), "update.cap"),
        (lambda: PolicyGradientConfig(objective="cispo"), "update.cap"),
        (lambda: PolicyGradientConfig(cap=5.0), "update.cap"),
        (lambda: PolicyGradientConfig(aggregate="constant"), "max_length"),
        (lambda: PolicyGradientConfig(min_group=1), "min_group"),
        (lambda: PolicyGradientConfig(baseline="critic"), "update.baseline"),
        (lambda: PolicyGradientConfig(baseline="batch"), "update.baseline"),
        (lambda: preset("reinforce", epochs=2), "epochs"),
        (lambda: preset("reinforce", minibatches=2), "minibatches"),
        (lambda: PolicyGradientConfig(clip_dual=1.0), "clip_dual"),
        (lambda: PolicyGradientConfig(schedule="cosine"), "total_steps"),
        (lambda: PolicyGradientConfig(eps=0.0), "eps"),
        (lambda: Filter(kind="band", low=0.9, high=0.1), "filter.low"),
        (lambda: Overlong(kind="soft", max_length=10), "overlong.buffer"),
        (lambda: Mismatch(kind="token_trunc", high=0.5), "mismatch.high"),
        (lambda: Mismatch(alarm_share=-0.1), "mismatch.alarm_share"),
        (lambda: Mismatch(alarm_share=1.1), "mismatch.alarm_share"),
        (lambda: PolicyGradientConfig(betas=(0.9, 1.0)), "update.betas"),
        (lambda: PolicyGradientConfig(betas=(-0.1, 0.9)), "update.betas"),
        (lambda: PolicyGradientConfig(adam_eps=0.0), "update.adam_eps"),
        (lambda: PolicyGradientConfig(weight_decay=-0.1), "update.weight_decay"),
        (lambda: PolicyGradientConfig(warmup_steps=-1), "update.warmup_steps"),
        (lambda: LoraConfig(alpha=0), "lora.alpha"),
        (lambda: LoraConfig(dropout=0.1), "lora.dropout"),
        (lambda: LoraConfig(targets=("lm_head",)), "lora.targets"),
    ],
)
def test_refused(build: Any, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert where in caught.value.where


def test_importing_the_stage_loads_no_engine() -> None:
    code = (
        "import sys, instar.components.update.stage, instar.components.update.presets\n"
        "heavy = {'torch', 'transformers', 'peft', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
