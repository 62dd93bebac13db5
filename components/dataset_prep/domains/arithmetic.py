"""Arithmetic: evaluate a sum of integers, for example `3+4-2`. Data: `chain_sum` of reasoning-gym, or `basic_arithmetic` with
`basic` = 1.

Each answer is computed again here, in exact rational arithmetic, before the item is accepted. `basic_arithmetic` rounds some
divisions. With negation, 18 of 2,000 answers were wrong. Without parentheses, 1,513 of 2,000 were wrong. So it is used with
parentheses and without negation.

Two expressions are the same task (`key`) when they have the same operands in another order or grouping. For example `3+4-2`,
`4-2+3` and `3-(2-4)` are one task. So no test task is a training task written in another way.
"""

from __future__ import annotations

import ast

from instar.components.dataset_prep.domains.gym import VERSION, dataset
from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.components.reward.expression import evaluate
from instar.errors import ContractError

DEFAULTS = {"terms": 2, "digits": 1, "basic": 0}


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Parameters: `terms`, `digits`, and `basic` (0: only + and -; 1: also *, / and parentheses)."""
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
            action="report this fault of the generator, and use other parameters",
        )
    terse = expression.replace(" ", "")
    return Item(
        prompt_body=f"Compute {expression}.",
        terse=f"{terse}=",
        reference={"answer": answer},
        features={"terms": terms, "digits": digits},
        key=canonical(expression),
    )


def canonical(expression: str) -> str:
    """Return the same text for all orders and groupings of the operands of a sum of products."""
    return _sum(ast.parse(expression, mode="eval").body)


def _sum(node: ast.expr) -> str:
    return "".join(sorted(_terms(node, "+")))


def _terms(node: ast.expr, sign: str) -> list[str]:
    """Return the signed terms of a sum, including the terms of nested sums."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            return _terms(left, sign) + _terms(right, sign if isinstance(op, ast.Add) else _OTHER[sign])
        case ast.UnaryOp(op=op, operand=operand):
            return _terms(operand, _OTHER[sign] if isinstance(op, ast.USub) else sign)
        case _:
            return [f"{sign}[{''.join(sorted(_factors(node, '*')))}]"]


def _factors(node: ast.expr, sign: str) -> list[str]:
    """Return the factors (`*`) and divisors (`/`) of a product, including those of nested products."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() as op, right=right):
            return _factors(left, sign) + _factors(right, sign if isinstance(op, ast.Mult) else _OTHER[sign])
        case ast.Constant(value=value):
            return [f"{sign}{value!r}"]
        case _:
            return [f"{sign}({_sum(node)})"]


_OTHER = {"+": "-", "-": "+", "*": "/", "/": "*"}

DOMAIN = Domain(
    generate=generate,
    generator=f"reasoning-gym.arithmetic/{VERSION}",
    verifier="number",
    answer_form="the number alone",
)
