"""Zebra puzzles: k people live in k houses and have c characteristics. Exactly one assignment fits the clues. Who lives in house 1?
(SEC section 3)

The generator draws the true assignment first. While another assignment also fits the clues, it adds a true clue that this other
assignment breaks. Then it removes every clue that is not needed for a unique solution. So the final list of clues is minimal.

The answer is one of k names, so a guess is right with probability 1/k (`reference.chance`). The same clues in another order are the
same puzzle (`key`). So are clues that say the same in the other direction, for example "A is left of B" and "B is right of A".
"""

from __future__ import annotations

from random import Random

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.components.dataset_prep.domains.zebra_solver import RELATIONS, Clue, canonical, find_other, holds
from instar.components.dataset_prep.domains.zebra_words import CATEGORIES, clue_terse, clue_text

DEFAULTS = {"people": 3, "characteristics": 3}
KINDS = ("same", "apart", "left", "right", "beside", "before", "at")
WEIGHTS = (4, 1, 2, 2, 3, 3, 1)  # how often each kind is drawn; `apart` tells little, `at` tells much
TRIES = 16  # partners tried for a kind before another kind is drawn


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Parameters: `people` (2 to 6) and `characteristics` (2 to 6; the name counts as one)."""
    p = resolve(params, DEFAULTS, "zebra")
    k, c = p["people"], p["characteristics"]
    require(2 <= k <= 6 and 2 <= c <= 6, "people and characteristics in 2..6", p, "zebra")
    rng = Random(seed + index)
    chosen = [0, *sorted(rng.sample(range(1, len(CATEGORIES)), c - 1))]
    words = [word for category in chosen for word in rng.sample(CATEGORIES[category].words, k)]
    truth = [house for _ in range(c) for house in rng.sample(range(k), k)]
    clues = minimal_clues(rng, truth, k)
    rng.shuffle(clues)
    answer = words[truth.index(0)]  # the first k items are the names
    return _item(chosen, words, clues, k, answer)


def minimal_clues(rng: Random, truth: list[int], k: int) -> list[Clue]:
    """Return a minimal list of clues that only `truth` fits. `truth[n]` is the house of item n = category * k + i."""
    clues: list[Clue] = []
    witnesses: list[list[int]] = []
    while (other := find_other(clues, truth, k, rng)) is not None:
        witnesses.append(other)
        clues.append(_breaking_clue(rng, truth, other, k))
    for clue in rng.sample(clues, len(clues)):
        rest = [c for c in clues if c is not clue]
        if any(all(holds(c, w) for c in rest) for w in witnesses):
            continue  # without this clue, an assignment that is already known would fit
        other = find_other(rest, truth, k, rng)
        if other is None:
            clues = rest
        else:
            witnesses.append(other)
    return clues


def _breaking_clue(rng: Random, truth: list[int], other: list[int], k: int) -> Clue:
    """Return a random true clue that the assignment `other` breaks. No clue says directly who lives in house 1."""
    wrong = [i for i in range(len(truth)) if truth[i] != other[i] and not (i < k and truth[i] == 0)]
    while True:
        a = wrong[int(rng.random() * len(wrong))]
        kind = rng.choices(KINDS, WEIGHTS)[0]
        if kind == "at":
            return Clue("at", a, truth[a])
        for _ in range(TRIES):
            b = int(rng.random() * len(truth))
            clue = Clue(kind, a, b) if rng.random() < 0.5 else Clue(kind, b, a)
            informative = kind not in ("same", "apart") or a // k != b // k
            if a != b and informative and RELATIONS[kind](truth[clue.a], truth[clue.b]) and not holds(clue, other):
                return clue


def _item(chosen: list[int], words: list[str], clues: list[Clue], k: int, answer: str) -> Item:
    groups = [words[g * k : (g + 1) * k] for g in range(len(chosen))]
    listed = [", ".join(sorted(group)) for group in groups]
    intro = "\n".join(f"- {CATEGORIES[c].intro}: {names}." for c, names in zip(chosen, listed, strict=True))
    phrases = [CATEGORIES[c].phrase.format(word) for c, group in zip(chosen, groups, strict=True) for word in group]
    numbered = "\n".join(f"{n}. {clue_text(clue, phrases)}" for n, clue in enumerate(clues, 1))
    terse = (
        "|".join(names.replace(", ", ",") for names in listed)
        + "|"
        + ";".join(clue_terse(c, words) for c in clues)
        + "?"
    )
    return Item(
        prompt_body=(
            f"{k} houses stand in a row, numbered 1 to {k} from left to right. One person lives in each.\n{intro}\n"
            f"No two people share any of these.\n\nClues:\n{numbered}\n\nWhat is the name of the person in house 1?"
        ),
        terse=terse,
        reference={"answer": answer, "chance": 1.0 / k},
        features={"people": k, "characteristics": len(chosen), "clues": len(clues)},
        key="|".join(listed) + "|" + ";".join(sorted(clue_terse(canonical(clue), words) for clue in clues)),
    )


DOMAIN = Domain(generate=generate, generator="instar.zebra/1", verifier="zebra", answer_form="the name alone")
