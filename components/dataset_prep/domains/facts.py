"""Number facts: one sum or product of two whole numbers, for example `3+5=`. A small pretrained model can learn them.

`a+b` and `b+a` are one task (`key`), so no test task is a training task written in the other order. One-digit numbers are 1 to 9.
They have 45 sums and 45 products. A two-digit and a one-digit number have 810 sums. Two two-digit numbers have 4,095 sums.
"""

from __future__ import annotations

from random import Random

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve

DEFAULTS = {"times": 0, "left": 1, "right": 1}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Parameters: `left` and `right` (numbers of digits, 1 to 6) and `times` (0: sum; 1: product)."""
    p = resolve(params, DEFAULTS, "facts")
    good = p["times"] in (0, 1) and 1 <= p["left"] <= 6 and 1 <= p["right"] <= 6
    require(good, "times 0 or 1, left and right in 1..6", p, "facts")
    rng = Random(seed + index)
    left, right = (
        10 ** (digits - 1) + int(rng.random() * 9 * 10 ** (digits - 1)) for digits in (p["left"], p["right"])
    )
    sign, answer = ("*", left * right) if p["times"] else ("+", left + right)
    low, high = sorted((left, right))
    return Item(
        prompt_body=f"What is {left} {sign} {right}?",
        terse=f"{left}{sign}{right}=",
        reference={"answer": str(answer)},
        features={"left": p["left"], "right": p["right"], "times": p["times"]},
        key=f"{low}{sign}{high}",
    )


DOMAIN = Domain(generate=generate, generator="instar.facts/1", verifier="exact", answer_form="the number alone")
