"""Zebra puzzles: uniqueness and minimality by brute force, text against short form, the solver. Two seconds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from random import Random

import pytest

from instar.components.dataset_prep.domains import zebra
from instar.components.dataset_prep.domains.zebra_solver import RELATIONS, Clue, find_other, holds
from instar.errors import ConfigError


def assignments(k: int, categories: int) -> Iterator[tuple[int, ...]]:
    """Yield every assignment of houses: one permutation per category."""
    for choice in itertools.product(itertools.permutations(range(k)), repeat=categories):
        yield tuple(itertools.chain.from_iterable(choice))


def parse(terse: str) -> tuple[list[list[str]], list[Clue]]:
    """Read the short form back: groups of words, and clues over item numbers."""
    symbols = {"=": "same", "!": "apart", "<": "left", ">": "right", "~": "beside", "+": "before"}
    *groups, clues = terse.removesuffix("?").split("|")
    words = [group.split(",") for group in groups]
    flat = [word for group in words for word in group]
    out = []
    for text in clues.split(";"):
        match = re.fullmatch(r"([A-Za-z]+)([=!<>~+@])([A-Za-z0-9]+)", text)
        assert match, text
        a, symbol, b = match.groups()
        out.append(
            Clue("at", flat.index(a), int(b) - 1)
            if symbol == "@"
            else Clue(symbols[symbol], flat.index(a), flat.index(b))
        )
    return words, out


@pytest.mark.parametrize(("k", "c", "num"), [(3, 3, 60), (4, 2, 20), (3, 4, 10), (2, 5, 10)])
def test_the_text_alone_has_exactly_one_solution_and_it_gives_the_answer(k: int, c: int, num: int) -> None:
    for index in range(num):
        item = zebra.generate({"people": k, "characteristics": c}, 3, index)
        words, clues = parse(item.terse)
        fits = [a for a in assignments(k, c) if all(holds(clue, a) for clue in clues)]
        assert len(fits) == 1, item.terse
        assert words[0][fits[0].index(0)] == item.reference["answer"]


def test_no_clue_can_be_left_out() -> None:
    for index in range(30):
        _, clues = parse(zebra.generate({"people": 3, "characteristics": 3}, 4, index).terse)
        for clue in clues:
            rest = [c for c in clues if c is not clue]
            assert sum(all(holds(c, a) for c in rest) for a in assignments(3, 3)) > 1


def test_sentences_and_short_form_say_the_same() -> None:
    signs = {
        "is also": "=",
        "is not": "!",
        "to the left of": "<",
        "to the right of": ">",
        "next to": "~",
        "directly to the left of": "+",
    }
    for index in range(40):
        item = zebra.generate({"people": 4, "characteristics": 3}, 9, index)
        sentences = re.findall(r"^\d+\. (.*)\.$", item.prompt_body, re.MULTILINE)
        short = item.terse.removesuffix("?").split("|")[-1].split(";")
        assert len(sentences) == len(short) == item.features["clues"]
        for sentence, text in zip(sentences, short, strict=True):
            a, sign, b = re.fullmatch(r"([A-Za-z]+)(.)([A-Za-z0-9]+)", text).groups()  # type: ignore[union-attr]
            if sign == "@":
                assert a in sentence and sentence.endswith(f"lives in house {b}")
                continue
            phrase = max((p for p in signs if p in sentence), key=len)
            left, _, right = sentence.partition(phrase)
            assert signs[phrase] == sign and a in left and b in right, (sentence, text)


@pytest.mark.parametrize("k", [3, 4])
def test_the_solver_agrees_with_brute_force_on_random_clue_sets(k: int) -> None:
    rng, found_none = Random(5), 0
    for _ in range(60 if k == 3 else 15):
        truth = [h for _ in range(2) for h in rng.sample(range(k), k)]
        clues: list[Clue] = []
        num_clues = rng.randint(1, 6)
        while len(clues) < num_clues:
            kind, a, b = rng.choice(list(RELATIONS)), *rng.sample(range(2 * k), 2)
            if RELATIONS[kind](truth[a], truth[b]):
                clues.append(Clue(kind, a, b))
        others = [list(a) for a in assignments(k, 2) if all(holds(c, a) for c in clues) and list(a) != truth]
        other = find_other(clues, truth, k, rng)
        assert (other is None) == (not others)
        assert other is None or other in others
        found_none += other is None
    assert k > 3 or found_none > 3  # both outcomes were exercised


@pytest.mark.parametrize("k", [5, 6])
def test_large_puzzles_are_unique_by_the_solver(k: int) -> None:
    rng = Random(k)
    for _ in range(2):
        truth = [h for _ in range(k) for h in rng.sample(range(k), k)]
        clues = zebra.minimal_clues(rng, truth, k)
        assert all(holds(clue, truth) for clue in clues)
        assert find_other(clues, truth, k, rng) is None
        assert find_other(clues[1:], truth, k, rng) is not None


def test_answers_are_not_given_away_and_are_spread_over_the_names() -> None:
    firsts = 0
    for index in range(200):
        item = zebra.generate({"people": 3, "characteristics": 3}, 8, index)
        assert f"{item.reference['answer']}@1" not in item.terse
        assert item.reference["chance"] == pytest.approx(1 / 3)
        firsts += item.terse.startswith(item.reference["answer"])
    assert 40 < firsts < 95  # guessing the first name is right one time in three


def test_an_item_is_named_by_seed_plus_index() -> None:
    params = {"people": 4, "characteristics": 4}
    assert zebra.generate(params, 100, 23) == zebra.generate(params, 123, 0) == zebra.generate(params, 123, 0)
    assert zebra.generate(params, 100, 23) != zebra.generate(params, 100, 24)


@pytest.mark.parametrize(
    "params", [{"people": 7}, {"people": 1}, {"characteristics": 1}, {"characteristics": 7}, {"houses": 3}]
)
def test_impossible_parameters_are_refused(params: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        zebra.generate(params, 0, 0)
