"""Sorting: write `length` digits in ascending order. Each level is a little harder than the one before.

There are C(length + 9, 9) different answers, so guessing does not help beyond length 2.

Two items are the same task (`key`) when they show the same digits in the same order. Another order is another task with the same
answer. Three digits have 220 answers, and four digits have 715. So most test tasks of these lengths share their answer with a
training task.
"""

from __future__ import annotations

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.seeds import rng

DEFAULTS = {"length": 3}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`: `length` digits, drawn independently and uniformly."""
    p = resolve(params, DEFAULTS, "sorting")
    require(1 <= p["length"] <= 64, "1 <= length <= 64", p, "sorting")
    digits = rng("sorting", p["length"], "digits", seed + index).integers(0, 10, size=p["length"]).tolist()
    text = "".join(map(str, digits))
    return Item(
        prompt_body=f"Sort these digits in ascending order: {' '.join(map(str, digits))}",
        terse=f"{text}=",
        reference={"answer": "".join(map(str, sorted(digits)))},
        features={"length": p["length"], "distinct": len(set(digits))},
        key=text,
    )


DOMAIN = Domain(
    generate=generate,
    generator="instar.sorting/1",
    verifier="exact",
    answer_form="the sorted digits without spaces",
)
