from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import seeds

NAMES = st.text(st.characters(exclude_characters="\x1f", exclude_categories=["Cs"]), max_size=20)
KEYS = st.tuples(NAMES, st.integers(0, 10**9), NAMES, st.one_of(st.integers(0, 10**9), NAMES))


def test_known_value() -> None:
    # BLAKE2b, 8 bytes, person "instar-seed", of "sec\x1f3\x1frollout\x1f7", shifted right by one.
    assert seeds.seed("sec", 3, "rollout", 7) == 8576031464548421513


@given(KEYS)
def test_fits_a_signed_64_bit_column(keys: tuple[str, int, str, int | str]) -> None:
    assert 0 <= seeds.seed(*keys) < 2**63


@given(KEYS, KEYS)
def test_different_keys_give_different_seeds(
    a: tuple[str, int, str, int | str], b: tuple[str, int, str, int | str]
) -> None:
    same = [str(x) for x in a] == [str(x) for x in b]
    assert (seeds.seed(*a) == seeds.seed(*b)) == same


def test_neighbouring_keys_do_not_run_together() -> None:
    assert seeds.seed("a", 11, "b") != seeds.seed("a", 1, "1b")
    assert seeds.seed("ab", 1, "c") != seeds.seed("a", 1, "bc")


def test_order_of_use_does_not_matter() -> None:
    forward = [seeds.rng("e", 0, "s", i).random() for i in range(5)]
    backward = [seeds.rng("e", 0, "s", i).random() for i in reversed(range(5))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 5


def test_global_generators_are_left_alone() -> None:
    torch = pytest.importorskip("torch")
    before = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002
    seeds.rng("e", 0, "s").random(100)
    torch.rand(100, generator=seeds.torch_generator(seeds.seed("e", 0, "s")))
    after = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002
    assert before == after


def test_torch_generator_repeats() -> None:
    torch = pytest.importorskip("torch")
    value = seeds.seed("e", 1, "s", "x")
    one = torch.rand(4, generator=seeds.torch_generator(value))
    two = torch.rand(4, generator=seeds.torch_generator(value))
    assert torch.equal(one, two)
