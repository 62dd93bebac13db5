"""The settings of published methods, by name.

A preset sets every axis of the objective that the paper or its code sets. The other fields keep their defaults. Learning
rates and batch sizes of a method are in its recipe.

    name       arXiv              name       arXiv              name       arXiv
    grpo       2402.03300         gspo       2507.18071         ppo        1707.06347
    dr_grpo    2503.20783         cispo      2506.13585         sec        2505.14970
    dapo       2503.14476         rloo       2402.14740         spark      2509.22624

The lengths in `dr_grpo` and `dapo` are those of the papers. Set your own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from instar import config as configs
from instar.components.update.config import Filter, Kl, Mismatch, Overlong, PolicyGradientConfig
from instar.errors import ConfigError, nearest

AXES = (
    "baseline",
    "scale",
    "ratio",
    "objective",
    "clip_low",
    "clip_high",
    "clip_dual",
    "cap",
    "aggregate",
    "max_length",
    "kl",
    "filter",
    "overlong",
    "mismatch",
    "value_clip",
)
"""The fields that a preset replaces in another update: the objective. Rates, entropy bonus, arm weights and sizes stay."""

_OFF = Mismatch(kind="off")

PRESETS: dict[str, PolicyGradientConfig] = {
    "default": PolicyGradientConfig(),
    "reinforce": PolicyGradientConfig(
        preset="reinforce", baseline="batch", scale="none", objective="reinforce", mismatch=_OFF
    ),
    "rloo": PolicyGradientConfig(
        preset="rloo",
        baseline="loo",
        scale="none",
        clip_high=0.2,
        aggregate="seq_token_sum",
        kl=Kl(place="reward", kind="k1", coef=0.05),
        mismatch=_OFF,
    ),
    "ppo": PolicyGradientConfig(
        preset="ppo",
        baseline="critic",
        scale="whiten",
        clip_high=0.2,
        value_clip=0.2,
        kl=Kl(place="reward", kind="k1", coef=0.001),
        mismatch=_OFF,
    ),
    "grpo": PolicyGradientConfig(
        preset="grpo",
        clip_high=0.2,
        aggregate="seq_token_mean",
        kl=Kl(place="loss", kind="k3", coef=0.001),
        mismatch=_OFF,
    ),
    "dr_grpo": PolicyGradientConfig(
        preset="dr_grpo", scale="none", clip_high=0.2, aggregate="constant", max_length=3000, mismatch=_OFF
    ),
    "dapo": PolicyGradientConfig(
        preset="dapo",
        clip_high=0.28,
        filter=Filter(kind="zero_variance"),
        overlong=Overlong(kind="soft", max_length=20480, buffer=4096),
        mismatch=_OFF,
    ),
    "gspo": PolicyGradientConfig(
        preset="gspo", ratio="sequence", clip_low=3e-4, clip_high=4e-4, aggregate="seq_token_mean", mismatch=_OFF
    ),
    "cispo": PolicyGradientConfig(preset="cispo", objective="cispo", cap=5.0, mismatch=_OFF),
    "sec": PolicyGradientConfig(preset="sec", clip_high=0.2, mismatch=_OFF),
    "spark": PolicyGradientConfig(
        preset="spark", clip_high=0.2, kl=Kl(place="loss", kind="k3", coef=0.001), mismatch=_OFF
    ),
}


def preset(name: str, **changes: Any) -> PolicyGradientConfig:
    """Return a preset with some fields replaced. An unknown name is a `ConfigError`."""
    if name not in PRESETS:
        raise ConfigError(expected="a preset", found=f"'{name}'", where="update.preset", action=nearest(name, PRESETS))
    return dataclasses.replace(PRESETS[name], **changes)


def expanded(changes: Mapping[str, Any], where: str = "update") -> dict[str, Any]:
    """Return changes of an update, with the objective of the preset that they name written out.

    Example: `{"preset": "dapo", "clip_high": 0.3}` becomes all of DAPO's objective with another clip. Changes that name no
    preset are returned as they are.
    """
    if "preset" not in changes:
        return dict(changes)
    chosen = preset(str(changes["preset"]))
    on_axes = {key: changes[key] for key in AXES if key in changes}
    objective = configs.to_dict(configs.merge(chosen, on_axes, where, {}))
    return {**{key: objective[key] for key in AXES}, **{k: v for k, v in changes.items() if k not in AXES}}
