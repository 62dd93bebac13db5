"""Countdown: reach a target with every number used exactly once (SEC section 3: values 1-100, targets 1-1000).

A generator makes the solution first: it starts with one number and joins one number after another by +, -, * or an exact division.
The final value is the target. Intermediate values may be negative or large. The target is inside its range.
"""

from __future__ import annotations

from random import Random

from instar.components.dataset_prep.domains.item import Domain, Item, require, resolve
from instar.errors import ConfigError

DEFAULTS = {"numbers": 3, "min_value": 1, "max_value": 100, "min_target": 1, "max_target": 1000}
MAX_ATTEMPTS = 10_000


def generate(params: dict[str, int], seed: int, index: int) -> Item:
    """Return item `index`. Parameters: `numbers`, `min_value`, `max_value`, `min_target`, `max_target`."""
    p = resolve(params, DEFAULTS, "countdown")
    count, low, high = p["numbers"], p["min_value"], p["max_value"]
    require(
        count >= 2 and 1 <= low <= high and p["min_target"] <= p["max_target"],
        "numbers >= 2, 1 <= min <= max",
        p,
        "countdown",
    )
    rng = Random(seed + index)
    span = high - low + 1
    for _ in range(MAX_ATTEMPTS):
        numbers = [low + int(rng.random() * span) for _ in range(count)]
        target, solution = _chain(rng, numbers)
        if p["min_target"] <= target <= p["max_target"]:
            rng.shuffle(numbers)
            return _item(numbers, target, solution)
    raise ConfigError(
        expected="a range of targets that the numbers can reach",
        found=f"no item in {MAX_ATTEMPTS} attempts with {p}",
        where="countdown.params",
        action="widen min_target..max_target",
    )


def _chain(rng: Random, numbers: list[int]) -> tuple[int, str]:
    """Join `numbers` from left to right, and return the value and the expression.

    When a division is drawn, the numbers may be reordered so that it is exact.
    """
    value, text, additive = numbers[0], str(numbers[0]), False
    for i in range(1, len(numbers)):
        operator = "+-*/"[int(rng.random() * 4)]
        if operator == "/":
            exact = [j for j in range(i, len(numbers)) if value % numbers[j] == 0]
            if exact:
                j = exact[int(rng.random() * len(exact))]
                numbers[i], numbers[j] = numbers[j], numbers[i]
            else:
                operator = "-"
        n = numbers[i]
        if operator == "+":
            value, text, additive = value + n, f"{text}+{n}", True
        elif operator == "-":
            value, text, additive = value - n, f"{text}-{n}", True
        else:
            value = value * n if operator == "*" else value // n
            text, additive = f"({text}){operator}{n}" if additive else f"{text}{operator}{n}", False
    return value, text


def _item(numbers: list[int], target: int, solution: str) -> Item:
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return Item(
        prompt_body=(
            f"Combine the numbers {listed} into an arithmetic expression whose value is {target}. "
            "Use every number exactly once. You may use +, -, *, / and parentheses."
        ),
        terse=f"{','.join(map(str, numbers))}>{target}:",
        reference={"numbers": numbers, "target": target, "answer": solution},
        features={"numbers": len(numbers), "operators": "".join(sorted(set(solution) & set("+-*/")))},
        key=f"{sorted(numbers)}>{target}",
    )


DOMAIN = Domain(
    generate=generate,
    generator="instar.countdown/1",
    verifier="countdown",
    answer_form="the expression alone, without an equals sign",
)
