"""Vocabulary of the zebra puzzles: categories with eight values each, and the text of a clue in words and in short form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instar.components.dataset_prep.domains.zebra_solver import Clue


class Category(NamedTuple):
    """One characteristic: the words that introduce its values, the phrase for the person who has a value, and the values."""

    intro: str
    phrase: str
    words: tuple[str, ...]


CATEGORIES = (
    Category("Their names", "{}", ("Ada", "Boris", "Chloe", "Dmitri", "Elif", "Farid", "Greta", "Hugo")),
    Category(
        "Their pets", "the owner of the {}", ("cat", "dog", "parrot", "rabbit", "turtle", "goldfish", "pony", "ferret")
    ),
    Category(
        "Their drinks", "the {} drinker", ("tea", "coffee", "milk", "cocoa", "lemonade", "cider", "water", "espresso")
    ),
    Category(
        "The colours of their doors",
        "the person with the {} door",
        ("red", "blue", "green", "yellow", "white", "purple", "orange", "black"),
    ),
    Category(
        "Their instruments",
        "the {} player",
        ("piano", "violin", "flute", "guitar", "drum", "harp", "trumpet", "cello"),
    ),
    Category(
        "Their jobs", "the {}", ("baker", "nurse", "pilot", "tailor", "farmer", "dentist", "painter", "librarian")
    ),
    Category(
        "Their favourite fruits",
        "the person who likes {}",
        ("apples", "pears", "plums", "cherries", "figs", "grapes", "lemons", "mangoes"),
    ),
)
SENTENCES = {
    "same": "{0} is also {1}.",
    "apart": "{0} is not {1}.",
    "left": "{0} lives somewhere to the left of {1}.",
    "right": "{0} lives somewhere to the right of {1}.",
    "beside": "{0} lives next to {1}.",
    "before": "{0} lives directly to the left of {1}.",
}
TERSE = {"same": "=", "apart": "!", "left": "<", "right": ">", "beside": "~", "before": "+"}


def clue_text(clue: Clue, phrases: Sequence[str]) -> str:
    """Return a clue as a sentence. `phrases[item]` is the phrase for the person who has the item."""
    first = phrases[clue.a][0].upper() + phrases[clue.a][1:]
    if clue.kind == "at":
        return f"{first} lives in house {clue.b + 1}."
    return SENTENCES[clue.kind].format(first, phrases[clue.b])


def clue_terse(clue: Clue, words: Sequence[str]) -> str:
    """Return a clue in short form, for example `a=b` or `a<b`. `a@2` says that a is in house 2."""
    if clue.kind == "at":
        return f"{words[clue.a]}@{clue.b + 1}"
    return f"{words[clue.a]}{TERSE[clue.kind]}{words[clue.b]}"
