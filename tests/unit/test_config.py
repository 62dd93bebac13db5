from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import config as configs
from instar.components.curriculum.config import SecConfig, ThompsonConfig, UniformConfig
from instar.errors import ConfigError
from instar.pipelines.recipe import Recipe
from instar.pipelines.recipes import METHODS, build


@dataclass(frozen=True, kw_only=True)
class Bandit:
    strategy: Literal["bandit"] = "bandit"
    prompts: int
    tau: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    strategy: Literal["plan"] = "plan"
    prompts: int
    steps: int = 10


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    steps: int = 5
    amsgrad: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str = "run"
    curriculum: Bandit | Plan = field(default_factory=lambda: Bandit(prompts=4))
    update: Optimizer = field(default_factory=Optimizer)
    device: Literal["cpu", "cuda"] = "cpu"
    target: float | None = None
    arms: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)


def changed(*assignments: str) -> Run:
    return configs.merge(Run(), configs.parse_set(assignments), where="demo")


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("update.lr=1e-4", "update.lr", 1e-4),
        ("update.lr=1", "update.lr", 1.0),
        ("update.steps=7.0", "update.steps", 7),
        ("update.betas=[0.8, 1]", "update.betas", (0.8, 1.0)),
        ("update.amsgrad=true", "update.amsgrad", True),
        ("curriculum.tau=0.25", "curriculum.tau", 0.25),
        ("name=a b", "name", "a b"),
        ('name="quoted"', "name", "quoted"),
        ("name=", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("device=cuda", "device", "cuda"),
        ("target=0.5", "target", 0.5),
        ("target=none", "target", None),
        ('arms=["x", "y"]', "arms", ("x", "y")),
        ("sizes={a = 1}", "sizes", {"a": 1}),
        ("sizes.a=2", "sizes", {"a": 2}),
    ],
    ids=lambda v: str(v),
)
def test_set_changes_one_value(assignment: str, path: str, value: Any) -> None:
    found: Any = changed(assignment)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_set_leaves_everything_else() -> None:
    assert dataclasses.replace(changed("update.lr=1"), update=Optimizer()) == Run()
    assert changed("update.lr=1").update == Optimizer(lr=1.0)


@pytest.mark.parametrize(
    ("assignment", "where", "message"),
    [
        ("curriculum.tua=1", "demo.curriculum.tua", "did you mean 'tau'?"),
        ("curriclum.tau=1", "demo.curriclum", "did you mean 'curriculum'?"),
        ("update.learning=1", "demo.update.learning", "valid: amsgrad, betas, lr, steps"),
        ("curriculum.strategy=bandt", "demo.curriculum.strategy", "did you mean 'bandit'?"),
        ("device=gpu", "demo.device", "one of cpu, cuda"),
        ("update.steps=7.5", "demo.update.steps", "int"),
        ("update.steps=true", "demo.update.steps", "int"),
        ("update.steps=many", "demo.update.steps", "'many'"),
        ("update.lr=true", "demo.update.lr", "float"),
        ("update.lr=fast", "demo.update.lr", "float"),
        ("update.lr=none", "demo.update.lr", "None"),
        ("update.lr=inf", "demo.update.lr", "a finite number"),
        ("update.lr=-inf", "demo.update.lr", "a finite number"),
        ("update.lr=nan", "demo.update.lr", "a finite number"),
        (f"update.lr=1{'0' * 400}", "demo.update.lr", "a finite number"),
        ("update.betas=[0.9, inf]", "demo.update.betas[1]", "a finite number"),
        ("target=nan", "demo.target", "a finite number"),
        ("update.amsgrad=1", "demo.update.amsgrad", "bool"),
        ("update.betas=[0.9]", "demo.update.betas", "2 items"),
        ("update.betas=0.9", "demo.update.betas", "a list"),
        ('update.betas=[0.9, "x"]', "demo.update.betas[1]", "float"),
        ("update=3", "demo.update", "a table of Optimizer"),
        ("name=3", "demo.name", "str"),
        ("sizes.a=x", "demo.sizes.a", "int"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_wrong_values_name_the_place(assignment: str, where: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(assignment)
    assert caught.value.where == where
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "update.lr", "=3", "  =3"], ids=repr)
def test_set_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        configs.parse_set([text])


def test_set_refuses_a_value_below_a_value() -> None:
    with pytest.raises(ConfigError, match="one value per key"):
        configs.parse_set(["a=1", "a.b=2"])
    with pytest.raises(ConfigError, match="assignments below it"):
        configs.parse_set(["a.b=2", "a=1"])


def test_the_last_of_two_assignments_wins() -> None:
    assert changed("update.lr=1", "update.lr=2").update.lr == 2.0


def test_strategy_switch_takes_defaults_and_keeps_what_all_alternatives_share() -> None:
    assert changed("curriculum.prompts=8", "curriculum.tau=9").curriculum == Bandit(prompts=8, tau=9.0)
    assert changed("curriculum.strategy=plan").curriculum == Plan(prompts=4)
    assert changed("curriculum.strategy=plan", "curriculum.steps=3").curriculum == Plan(prompts=4, steps=3)
    assert changed("curriculum.strategy=bandit", "curriculum.tau=2").curriculum == Bandit(prompts=4, tau=2.0)


def test_strategy_switch_refuses_keys_of_the_old_strategy() -> None:
    with pytest.raises(ConfigError, match=r"curriculum\.tau"):
        changed("curriculum.strategy=plan", "curriculum.tau=1")


def test_missing_required_key_is_named() -> None:
    with pytest.raises(ConfigError, match="prompts"):
        configs.from_dict(Bandit, {}, where="demo")


def test_toml_then_set(tmp_path: Path) -> None:
    path = tmp_path / "changes.toml"
    path.write_text('name = "from-file"\n[update]\nlr = 0.5\nsteps = 9\n[curriculum]\nstrategy = "plan"\nsteps = 2\n')
    run = configs.merge(Run(), configs.load_toml(path), where=str(path))
    run = configs.merge(run, configs.parse_set(["update.lr=0.25"]), where="--set")
    assert (run.name, run.update.lr, run.update.steps, run.curriculum) == (
        "from-file",
        0.25,
        9,
        Plan(prompts=4, steps=2),
    )


def test_toml_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        configs.load_toml(tmp_path / "absent.toml")
    path = tmp_path / "broken.toml"
    path.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        configs.load_toml(path)
    path.write_text("[curriculum]\ntua = 1\n")
    with pytest.raises(ConfigError, match="did you mean 'tau'") as caught:
        configs.merge(Run(), configs.load_toml(path), where=str(path))
    assert caught.value.where == f"{path}.curriculum.tua"


@pytest.mark.parametrize("spoil", ["folder", "latin-1", "inf"])
def test_a_toml_file_that_cannot_be_used_is_named(spoil: str, tmp_path: Path) -> None:
    path = tmp_path / "changes.toml"
    if spoil == "folder":
        path.mkdir()
    else:
        path.write_bytes(b'name = "\xe9"' if spoil == "latin-1" else b"target = inf")
    with pytest.raises(ConfigError) as caught:
        configs.merge(Run(), configs.load_toml(path), where=str(path))
    assert caught.value.where.startswith(str(path))


@given(
    st.builds(
        Run,
        name=st.text(max_size=5),
        curriculum=st.one_of(
            st.builds(Bandit, prompts=st.integers(1, 9), tau=st.floats(0, 1)),
            st.builds(Plan, prompts=st.integers(1, 9), steps=st.integers(0, 9)),
        ),
        update=st.builds(Optimizer, lr=st.floats(0, 1), betas=st.tuples(st.floats(0, 1), st.floats(0, 1))),
        target=st.one_of(st.none(), st.floats(0, 1)),
        arms=st.lists(st.text(max_size=3), max_size=3).map(tuple),
        sizes=st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
    )
)
def test_json_round_trip_is_exact(run: Run) -> None:
    again = configs.from_dict(Run, json.loads(configs.dumps(run)))
    assert again == run
    assert configs.digest(again) == configs.digest(run)


def test_integers_that_became_floats_on_the_way_give_the_same_digest() -> None:
    text = configs.dumps(Run(update=Optimizer(steps=5))).replace('"steps":5', '"steps":5.0')
    assert "5.0" in text
    assert configs.digest(configs.from_dict(Run, json.loads(text))) == configs.digest(Run())


def test_digest_sees_every_change_and_no_order() -> None:
    assert configs.digest({"a": 1, "b": 2}) == configs.digest({"b": 2, "a": 1})
    assert configs.digest(Run()) != configs.digest(Run(update=Optimizer(lr=1e-3 + 1e-12)))


def test_nan_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        configs.dumps(Run(target=float("nan")))


@pytest.mark.parametrize(("name", "scale"), [(n, s) for n, method in METHODS.items() for s in method.scales], ids=str)
def test_recipes_survive_their_own_json(name: str, scale: str) -> None:
    recipe = build(name, scale)
    assert configs.from_dict(Recipe, json.loads(configs.dumps(recipe))) == recipe


def test_recipe_curriculum_can_be_switched_by_name_alone() -> None:
    recipe = build("sec", "tiny")
    assert isinstance(recipe.curriculum, SecConfig)
    for name, kind in (("uniform", UniformConfig), ("thompson", ThompsonConfig)):
        other = configs.merge(recipe, configs.parse_set([f"curriculum.strategy={name}"])).curriculum
        assert type(other) is kind
        assert (other.prompts, other.group_size) == (recipe.curriculum.prompts, recipe.curriculum.group_size)


def test_recipe_values_are_checked_again_after_a_change() -> None:
    with pytest.raises(ConfigError, match="tau"):
        configs.merge(build("sec", "tiny"), configs.parse_set(["curriculum.tau=-1"]))


def test_unknown_recipe_and_scale_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sec'"):
        build("secc", "tiny")
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        build("sec", "tyny")
