"""The methods: what each is called, which model it takes, and the digest of every configuration of every recipe.

Runs of a recipe are named and found again by these digests. The table was written before the numbers of the methods moved into
their recipe files. A change of a number, or a field added to a configuration, changes a row: the assertion shows the new
digests, which then belong in the table.
"""

from __future__ import annotations

import pytest

from instar import config as configs
from instar.errors import ConfigError
from instar.pipelines.recipes import METHODS, method

DIGESTS = """
method         scale  dataset_ curricul rollout  reward   update   evaluate test     gate     recipe
decision_mamba tiny   c6122714 984b689f 6d1d1569 bd031a26 33cd9203 8046d458 0d478ae1 e6844150 b9ab409a
decision_mamba single ce2325b1 ff5d77b8 6d1d1569 bd031a26 35205c62 f7754843 0d022a3a e6844150 4a795b94
decision_mamba paper  a7747b6a ff5d77b8 6d1d1569 bd031a26 35205c62 f7754843 0d022a3a e6844150 81a7f944
sec            tiny   8c076f5e 981da65a a919e7f6 4fc152fe 0b47e49f 402ec9fb 4d369421 42018b4b d32fae81
sec            small  34ea14c7 54906225 e2c0357d 4fc152fe e7ba9e4f 7642491b 8507a02e 42018b4b c974e157
sec            single a0f75bf9 b6f45a20 54048942 2c1bb14e 99f40df4 3c7f0419 ed3b097e 42018b4b dc6c11f5
sec            paper  cb0a0b73 98087fa5 494bea65 2c1bb14e 99f40df4 e0b2c647 10230c86 42018b4b 54c5e8c0
spark          tiny   7865504a 27773006 5787affb 440735fc 318de2d0 9d42b7fb 35efb161 42018b4b 80e07e2d
spark          small  e1d69f07 d79865ff e2c0357d 4a1627a2 7358e71d 0486072f a85c2f55 42018b4b 4c7025e3
spark          paper  74ece443 df4c8afe 47e5d175 062f7252 2b4bb7ff edf53b4c a239252f 42018b4b 5ab99fc2
"""
STAGES = ("dataset_prep", "curriculum", "rollout", "reward", "update", "evaluate", "test", "gate")
ROWS = {(name, scale): row for name, scale, *row in map(str.split, DIGESTS.strip().splitlines()[1:])}
SCALES = [(name, scale) for name, known in METHODS.items() for scale in known.scales]


def test_the_table_has_every_scale() -> None:
    assert list(ROWS) == SCALES


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_configurations_have_the_digests_of_the_table(name: str, scale: str) -> None:
    recipe = method(name).recipe(scale)
    digests = {stage: configs.digest(getattr(recipe, stage))[:8] for stage in STAGES}
    digests["recipe"] = configs.digest(recipe)[:8]
    assert digests == dict(zip((*STAGES, "recipe"), ROWS[name, scale], strict=True))


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_a_recipe_says_of_itself_what_its_method_says(name: str, scale: str) -> None:
    recipe = method(name).recipe(scale)
    assert (recipe.name, recipe.scale, recipe.paper) == (name, scale, METHODS[name].paper)
    assert METHODS[name].name == name


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_a_model_is_taken_or_refused(name: str, scale: str) -> None:
    if name == "decision_mamba":
        with pytest.raises(ConfigError, match=f"no --model: {name} makes its own policy, which is no language model"):
            method(name).recipe(scale, "models/mine")
    else:
        usual, mine = (configs.to_dict(method(name).recipe(scale, model)) for model in (None, "models/mine"))
        assert mine["dataset_prep"].pop("initial") == {"strategy": "checkpoint", "path": "models/mine"}
        del usual["dataset_prep"]["initial"]
        assert mine == usual, "the tasks and numbers of the scale stay"


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'spark'"):
        method("sparc")
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        method("sec").recipe("papers")
