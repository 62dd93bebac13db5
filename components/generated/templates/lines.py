"""Few-shot prompts for models that continue a text: some solved lines, then the line to complete. A line break ends the answer.

The solved lines subtract digits, for example "9-4=5 yes". The tasks of one-digit facts add and multiply, so no solved line gives
the answer to a task away. Half of the verdicts in the solved lines are "yes" or "A". Their order has no pattern.
"""

from __future__ import annotations

_JUDGED = (("9-4=5", "yes"), ("8-2=7", "no"), ("6-5=2", "no"), ("7-3=4", "yes"))
_PAIRS = (("8-2=", "7", "6", "B"), ("9-4=", "5", "6", "A"), ("7-3=", "4", "3", "A"), ("6-5=", "2", "1", "B"))
_CHECKED = (("8-2=", "7", "6"), ("9-4=", "5", "5"), ("6-5=", "2", "1"), ("7-3=", "4", "4"))
_FIXED = (("8-2=", "7", "6"), ("9-4=", "6", "5"), ("6-5=", "2", "1"), ("7-3=", "3", "4"))


def _judged(shape: str) -> str:
    """Return the solved lines and the line to complete. `shape` is one line in which `#` stands for the equation; the verdict
    follows the shape."""
    solved = [f"{shape.replace('#', equation)} {verdict}" for equation, verdict in _JUDGED]
    return "\n".join([*solved, shape.replace("#", "{question}{answer}")])


def _lines(shots: tuple[tuple[str, ...], ...], shape: str, names: tuple[str, ...]) -> str:
    """Return the same for a shape with the gaps #0, #1, and so on. The last item of every shot is its answer."""
    filled = []
    for *values, answer in (*shots, (*names, "")):
        text = shape
        for place, value in enumerate(values):
            text = text.replace(f"#{place}", value)
        filled.append(f"{text} {answer}".rstrip())
    return "\n".join(filled)


YES_NO: tuple[str, ...] = tuple(map(_judged, ("# Right?", "Is # correct?", "# Checked, true:", "Claim: # Holds:")))
_TWO = ("{question}", "{answer_a}", "{answer_b}")
PAIR: tuple[str, ...] = tuple(
    _lines(_PAIRS, shape, _TWO)
    for shape in ("#0 A) #1 B) #2 Correct:", "#0 is it A: #1 or B: #2? It is", "#0 (A) #1 (B) #2 Answer:")
)
_ONE = ("{question}", "{answer}")
WITH_ANSWER: tuple[str, ...] = tuple(
    _lines(_CHECKED, shape, _ONE)
    for shape in ("#0 first try #1, checked", "#0 guess #1, final", "#0 maybe #1, for certain")
)
KNOWN_WRONG: tuple[str, ...] = tuple(
    _lines(_FIXED, shape, _ONE) for shape in ("#0 not #1 but", "#0 #1 is wrong, right is", "#0 instead of #1 it is")
)
