"""Pools: sizes, splits, no task in two pools, determinism, planted collisions and faults. Two seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from instar import config as configuration
from instar import schema, seeds
from instar.components.dataset_prep import pools
from instar.components.dataset_prep.config import ArmConfig, PoolsConfig
from instar.components.dataset_prep.domains import DOMAINS, Item
from instar.components.dataset_prep.templates import ANSWER_STYLE, TEMPLATES
from instar.components.reward.verifiers import Score, verify
from instar.errors import ConfigError, ContractError
from instar.pipelines.recipes.sec import arc1d, countdown, zebra
from instar.pipelines.recipes.spark import sums
from instar.rows import TaskRow


def seed_of(item: str) -> int:
    return seeds.seed("test", 0, "dataset_prep", item)


def small(template: str = "plain") -> PoolsConfig:
    return PoolsConfig(arms=(*countdown(40, 5, 10), *zebra(6, 2, 2)[:2]), template=template)


def test_sizes_splits_and_rows() -> None:
    rows = pools.build_pools(small(), seed_of)
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        counts[row.arm, row.split] = counts.get((row.arm, row.split), 0) + 1
    expected = {(f"countdown-{k}", s): n for k in (3, 4, 5) for s, n in (("id", 10), ("val", 5), ("train", 40))}
    expected |= {("countdown-6", "ood"): 10}
    expected |= {(f"zebra-{k}", s): n for k in (3, 4) for s, n in (("id", 2), ("val", 2), ("train", 6))}
    assert counts == expected
    table = schema.to_table(TaskRow, rows)  # unique ids, full hashes
    assert table.num_rows == len(rows)
    for row in rows:
        assert row.content_hash == hashlib.sha256(f"{row.prompt}\x1f{row.reference}".encode()).hexdigest()


def test_no_two_rows_are_the_same_task() -> None:
    rows = pools.build_pools(small(), seed_of)
    keys = set()
    for row in rows:
        params = next(arm.params for arm in small().arms if arm.name == row.arm)
        item = DOMAINS[row.domain].generate(params, row.seed, 0)
        assert json.loads(row.reference) == item.reference  # the row's seed regenerates its item
        keys.add((row.domain, item.key))
    assert len(keys) == len(rows) == len({row.content_hash for row in rows})


def test_the_same_seeds_give_the_same_rows_and_other_seeds_other_rows() -> None:
    assert pools.build_pools(small(), seed_of) == pools.build_pools(small(), seed_of)
    other = pools.build_pools(small(), lambda item: seed_of(item) + 10**9)
    assert not {r.content_hash for r in other} & {r.content_hash for r in pools.build_pools(small(), seed_of)}


def test_a_larger_training_pool_leaves_the_test_pools_unchanged() -> None:
    def tests_of(train: int) -> list[TaskRow]:
        config = PoolsConfig(arms=countdown(train, 5, 10))
        return [row for row in pools.build_pools(config, seed_of) if row.split != "train"]

    assert tests_of(10) == tests_of(300)


TIGHT = {"numbers": 2, "max_value": 3, "max_target": 9}


def distinct(params: dict[str, int]) -> int:
    return len({DOMAINS["countdown"].generate(params, 1, i).key for i in range(5_000)})


def test_pools_whose_draws_collide_are_still_disjoint() -> None:
    room = distinct(TIGHT)
    assert room < 30
    arm = ArmConfig(name="a", domain="countdown", level=1, params=TIGHT, train=room - 8, val=4, test=4)
    rows = pools.build_pools(PoolsConfig(arms=(arm,)), lambda item: 5)  # one seed for all pools: every draw collides
    keys = {(tuple(sorted(json.loads(r.reference)["numbers"])), json.loads(r.reference)["target"]) for r in rows}
    assert len(keys) == len(rows) == room


def test_too_few_different_items_is_an_error_that_names_the_arm() -> None:
    arm = ArmConfig(name="tight", domain="countdown", level=1, params=TIGHT, train=distinct(TIGHT) - 7, val=4, test=4)
    with pytest.raises(ContractError, match=r"tight/train.*dataset_prep\.arms\.tight"):
        pools.build_pools(PoolsConfig(arms=(arm,)), seed_of)


def test_a_generator_that_stores_a_wrong_answer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(params: dict[str, int], seed: int, index: int) -> Item:
        item = DOMAINS_BEFORE["countdown"].generate(params, seed, index)
        return dataclasses.replace(item, reference={**item.reference, "target": item.reference["target"] + 1})

    DOMAINS_BEFORE = dict(DOMAINS)
    monkeypatch.setitem(DOMAINS, "countdown", dataclasses.replace(DOMAINS["countdown"], generate=faulty))
    with pytest.raises(ContractError, match="verifier 'countdown' accepts"):
        pools.build_pools(PoolsConfig(arms=countdown(5, 0, 1)), seed_of)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_every_template_shows_the_task_and_its_answer_can_be_scored(template: str) -> None:
    style = ANSWER_STYLE[template]
    for row in pools.build_pools(small(template), seed_of)[:60]:
        answer = json.loads(row.reference)["answer"]
        text = answer if style == "line" else f"some thought \\boxed{{{answer}}}"
        assert verify(row, text, style) == Score(correct=1.0, format_ok=True)
        assert ("\\boxed" in row.prompt) == (style == "boxed")
        if row.domain == "countdown":
            assert all(str(n) in row.prompt for n in json.loads(row.reference)["numbers"])
            assert answer not in row.prompt


def test_sec_arms_have_the_published_sizes() -> None:
    for arms in (countdown(), zebra(), arc1d()):
        assert [(a.train, a.test, a.ood) for a in arms] == [(10_000, 200, False)] * 3 + [(0, 200, True)]
    assert [a.level for a in sums()] == [1, 2, 3, 4, 5, 6]


def test_config_survives_json_and_names_mistakes() -> None:
    config = small("boxed")
    assert configuration.from_dict(PoolsConfig, json.loads(configuration.dumps(config))) == config
    with pytest.raises(ConfigError, match="did you mean 'countdown'"):
        ArmConfig(name="a", domain="countdwn", level=1, train=1, val=1, test=1)
    with pytest.raises(ConfigError, match="did you mean 'boxed'"):
        PoolsConfig(arms=countdown(), template="box")
    with pytest.raises(ConfigError, match="countdown-3"):
        PoolsConfig(arms=countdown() + countdown())
    with pytest.raises(ConfigError, match="no arms"):
        PoolsConfig(arms=())
    with pytest.raises(ConfigError, match="ood"):
        ArmConfig(name="a", domain="zebra", level=1, train=1, val=0, test=1, ood=True)
    with pytest.raises(ConfigError, match="a/b"):
        ArmConfig(name="a/b", domain="zebra", level=1, train=1, val=0, test=1)


def test_contracts_load_no_heavy_module() -> None:
    code = (
        "import sys, instar.components.dataset_prep.pools, instar.components.reward.stage, instar.quality\n"
        "heavy = {'torch', 'transformers', 'reasoning_gym', 'great_expectations', 'pandas', 'tokenizers'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
