"""Counting: how many ones are in a row of `length` zeros and ones? Answers become uncertain one by one as rows grow.

The count is drawn uniformly from `least` to `most` (no more than `length`): with n counts a blind guess is right once in n times.
Wrong answers of a policy that half knows how to count are near misses: telling them from right ones takes the same skill as
counting, and no less.
"""

from __future__ import annotations

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.seeds import rng

DEFAULTS = {"length": 8, "least": 0, "most": 64}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`: a row of which every number of ones in the limits is equally likely, and every order of them."""
    p = resolve(params, DEFAULTS, "ones")
    require(1 <= p["length"] <= 64, "1 <= length <= 64", p, "ones")
    least, most = p["least"], min(p["most"], p["length"])
    require(0 <= least <= most, "0 <= least <= most, and least <= length", p, "ones")
    stream = rng("ones", p["length"], "row", seed + index)
    count = int(stream.integers(least, most + 1))
    row = "".join(stream.permutation(list("1" * count + "0" * (p["length"] - count))).tolist())
    return Item(
        prompt_body=f"How many ones are in this row? {' '.join(row)}",
        terse=f"{row}=",
        reference={"answer": str(count), "chance": 1.0 / (most - least + 1)},
        features={"length": p["length"]},
        key=row,
    )


DOMAIN = Domain(generate=generate, generator="instar.ones/1", verifier="exact", answer_form="a whole number")
