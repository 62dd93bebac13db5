"""Counting: how many ones are in a row of `length` zeros and ones? Answers become uncertain one by one as rows grow.

The count is drawn uniformly from 0 to `length`, so a blind guess is right once in length + 1. Wrong answers of a policy that half
knows how to count are near misses: telling them from right ones takes the same skill as counting, and no less.
"""

from __future__ import annotations

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.seeds import rng

DEFAULTS = {"length": 8}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`: a row of which every number of ones is equally likely, and every order of them."""
    p = resolve(params, DEFAULTS, "ones")
    require(1 <= p["length"] <= 64, "1 <= length <= 64", p, "ones")
    stream = rng("ones", p["length"], "row", seed + index)
    count = int(stream.integers(0, p["length"] + 1))
    row = "".join(stream.permutation(list("1" * count + "0" * (p["length"] - count))).tolist())
    return Item(
        prompt_body=f"How many ones are in this row? {' '.join(row)}",
        terse=f"{row}=",
        reference={"answer": str(count), "chance": 1.0 / (p["length"] + 1)},
        features={"length": p["length"]},
        key=row,
    )


DOMAIN = Domain(generate=generate, generator="instar.ones/1", verifier="exact", answer_form="a whole number")
