"""Arithmetic: evaluate a sum of integers (`chain_sum` of reasoning-gym), or with `basic` = 1 its `basic_arithmetic`.

Each item is recomputed here in exact rational arithmetic before it is accepted. `basic_arithmetic` rounds divisions
where it may negate (18 of 2,000 answers wrong) or omit parentheses (1,513 of 2,000), so it is used with parentheses and
without negation.
"""

from __future__ import annotations

from instar.components.dataset_prep.domains.gym import VERSION, dataset
from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.components.reward.expression import evaluate
from instar.errors import ContractError

DEFAULTS = {"terms": 2, "digits": 1, "basic": 0}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Parameters: `terms`, `digits`, `basic` (0: + and - only; 1: also * / and parentheses)."""
    p = resolve(params, DEFAULTS, "arithmetic")
    require(
        p["terms"] >= 2 and p["digits"] >= 1 and p["basic"] in (0, 1),
        "terms >= 2, digits >= 1, basic 0/1",
        p,
        "arithmetic",
    )
    terms, digits = p["terms"], p["digits"]
    name = "basic_arithmetic" if p["basic"] else "chain_sum"
    sizes = (("min_terms", terms), ("max_terms", terms), ("min_digits", digits), ("max_digits", digits))
    entry = dataset(name, (*sizes, ("allow_negation", False)), seed)[index]
    expression, answer = str(entry["metadata"]["expression"]), str(entry["answer"])
    if evaluate(expression) != int(answer):
        raise ContractError(
            expected=f"{expression} = {evaluate(expression)}",
            found=answer,
            where=f"arithmetic item {seed + index}",
            action="report the generator's fault and use another parameter",
        )
    terse = expression.replace(" ", "")
    return Item(
        prompt_body=f"Compute {expression}.",
        terse=f"{terse}=",
        reference={"answer": answer},
        features={"terms": terms, "digits": digits},
        key=terse,
    )


DOMAIN = Domain(
    generate=generate,
    generator=f"reasoning-gym.arithmetic/{VERSION}",
    verifier="number",
    answer_form="the number alone",
)
