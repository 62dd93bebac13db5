"""Counting: how many ones are in a row of `length` zeros and ones? The longer the row, the less certain is the answer.

The count is drawn uniformly from `least` to `most`, but it is never above `length`. With n possible counts, a guess is right with
probability 1/n. A policy that counts badly is often wrong by one. To tell such an answer from a right one, a judge must be able to
count as well.
"""

from __future__ import annotations

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.seeds import rng

DEFAULTS = {"length": 8, "least": 0, "most": 64}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Every number of ones in the limits is equally likely, and so is every order of the row."""
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
