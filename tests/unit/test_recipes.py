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
sec            tiny   8c076f5e 981da65a a919e7f6 c62783aa 1df80eec 376a7f6e 0003ea4b 42018b4b 9582585f
sec            small  34ea14c7 54906225 e2c0357d c62783aa efcc6395 1aad1988 6c80f3ab 42018b4b 9a869648
sec            single a0f75bf9 b6f45a20 54048942 9974eb54 b16c1e21 ebaa07f9 f9b04625 42018b4b 18a2a732
sec            paper  cb0a0b73 98087fa5 494bea65 9974eb54 b16c1e21 346ca738 a6b57557 42018b4b 511f772e
spark          tiny   7865504a 27773006 5787affb 35f00de6 51a7b3f1 ed1a0590 350fd71c 42018b4b 6f3512ec
spark          small  e1d69f07 d79865ff e2c0357d 87087978 8f824877 ccb3df80 4ebb4eec 42018b4b 739e7095
spark          paper  74ece443 df4c8afe 47e5d175 ca392a7e 0b97048e 3a43f95f e74e279d 42018b4b 9e0cf9fe
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
