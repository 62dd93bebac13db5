"""Row 15, configuration sprawl: a typo is an error that names the key meant, and a recipe stays a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar import config as configs
from instar.errors import ConfigError
from instar.pipelines import recipes
from instar.pipelines.recipes import build


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


@pytest.mark.parametrize("path", sorted(Path(recipes.__file__).parent.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_recipe_is_under_60_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def test_the_resolved_recipe_is_what_the_ledger_stores() -> None:
    """Resolved JSON builds the very same recipe again: no value hides outside of it."""
    for name, (_, scales) in recipes.RECIPES.items():
        for scale in scales:
            recipe = build(name, scale)
            assert configs.from_dict(type(recipe), configs.to_dict(recipe)) == recipe
