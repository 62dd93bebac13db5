"""The exact value of arithmetic that a model wrote: tokens, then recursive descent over rationals. Nothing is executed.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = ("+" | "-")* (integer | "(" sum ")")

There are no powers, no floor division, no decimals and no names. Typographic signs (`signs.SIGNS`), the digits of every script, and
the LaTeX commands of the four operations are accepted.
"""

from __future__ import annotations

import re
from fractions import Fraction

from instar.components.reward.signs import plain

MAX_CHARS, MAX_DIGITS, MAX_DEPTH = 2_000, 18, 50
_COMMANDS = {r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\div": "/", r"\left": "", r"\right": ""}
_COMMAND = re.compile(r"\\(?:times|cdot|ast|div)(?![A-Za-z])|\\left(?=\()|\\right(?=\))")
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


class ExpressionError(ValueError):
    """The text is not an expression of the grammar, divides by zero, or goes beyond a limit of length or depth."""


def tokenise(text: str) -> list[str]:
    """Return the integers, operators and parentheses in order. Raises `ExpressionError` for anything else."""
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"{len(text)} characters, more than {MAX_CHARS}")
    text = _COMMAND.sub(lambda match: _COMMANDS[match.group()], plain(text)).rstrip()
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected {text[position : position + 10].strip()!r}")
        if len(match.group(1)) > MAX_DIGITS:
            raise ExpressionError(f"an integer of {len(match.group(1))} digits, more than {MAX_DIGITS}")
        tokens.append(match.group(1))
        position = match.end()
    return tokens


def integers(tokens: list[str]) -> list[int]:
    """Return the integers of a token list in order."""
    return [int(token) for token in tokens if token.isdigit()]


def evaluate(text: str) -> Fraction:
    """Return the exact value of an expression. Raises `ExpressionError`."""
    return evaluate_tokens(tokenise(text))


def evaluate_tokens(tokens: list[str]) -> Fraction:
    """Return the exact value of a tokenised expression. Raises `ExpressionError`."""
    value, position = _sum(tokens, 0, 0)
    if position != len(tokens):
        raise ExpressionError(f"unexpected {tokens[position]!r}")
    return value


def _sum(tokens: list[str], position: int, depth: int) -> tuple[Fraction, int]:
    value, position = _product(tokens, position, depth)
    while position < len(tokens) and tokens[position] in "+-":
        right, after = _product(tokens, position + 1, depth)
        value = value + right if tokens[position] == "+" else value - right
        position = after
    return value, position


def _product(tokens: list[str], position: int, depth: int) -> tuple[Fraction, int]:
    value, position = _factor(tokens, position, depth)
    while position < len(tokens) and tokens[position] in "*/":
        right, after = _factor(tokens, position + 1, depth)
        if tokens[position] == "/" and right == 0:
            raise ExpressionError("division by zero")
        value = value * right if tokens[position] == "*" else value / right
        position = after
    return value, position


def _factor(tokens: list[str], position: int, depth: int) -> tuple[Fraction, int]:
    sign = 1
    while position < len(tokens) and tokens[position] in "+-":
        sign = -sign if tokens[position] == "-" else sign
        position += 1
    if position == len(tokens):
        raise ExpressionError("ends where a number is needed")
    token = tokens[position]
    if token.isdigit():
        return Fraction(sign * int(token)), position + 1
    if token != "(":
        raise ExpressionError(f"{token!r} where a number is needed")
    if depth == MAX_DEPTH:
        raise ExpressionError(f"more than {MAX_DEPTH} open parentheses")
    value, position = _sum(tokens, position + 1, depth + 1)
    if position == len(tokens) or tokens[position] != ")":
        raise ExpressionError("an open parenthesis is not closed")
    return sign * value, position + 1
