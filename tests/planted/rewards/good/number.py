"""Good: numbers are compared as numbers, and what is no number is wrong."""

from fractions import Fraction


def reward(answer, reference):
    try:
        return Fraction(answer.strip()) == Fraction(reference["answer"])
    except (ValueError, ZeroDivisionError):
        return False
