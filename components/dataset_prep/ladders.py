"""Ladders: arms of one domain that get harder from level to level. The recipe chooses the levels and the sizes of the pools."""

from __future__ import annotations

from collections.abc import Sequence

from instar.components.dataset_prep.config import ArmConfig, PoolsConfig


def ladder(
    domain: str, levels: Sequence[tuple[int, dict[str, int]]], train: int, val: int, test: int
) -> tuple[ArmConfig, ...]:
    """Return one arm per pair of level and parameters. The last arm is out of distribution: it is only tested."""
    out_of_distribution = levels[-1][0]
    return tuple(
        ArmConfig(
            name=f"{domain}-{level}",
            domain=domain,
            level=float(level),
            params=params,
            train=0 if level == out_of_distribution else train,
            val=0 if level == out_of_distribution else val,
            test=test,
            ood=level == out_of_distribution,
        )
        for level, params in levels
    )


def facts(one_digit: tuple[int, int, int], wider: tuple[int, int, int]) -> PoolsConfig:
    """Return the few-shot pools of number facts: one-digit sums, one-digit products, and sums with a two-digit number.

    The last arm adds two two-digit numbers and is only tested. `one_digit` and `wider` are the sizes (train, val, test) of
    one-digit arms and of the others. A one-digit arm has 45 tasks in all. Three of them are shown solved in the prompts, so 42
    are left.
    """
    levels = [
        ("add-1-1", {"left": 1, "right": 1}, one_digit),
        ("times-1-1", {"times": 1, "left": 1, "right": 1}, one_digit),
        ("add-2-1", {"left": 2, "right": 1}, wider),
        ("add-2-2", {"left": 2, "right": 2}, (0, 0, wider[2])),
    ]
    arms = tuple(
        ArmConfig(
            name=name, domain="facts", level=float(n), params=params, train=train, val=val, test=test, ood=train == 0
        )
        for n, (name, params, (train, val, test)) in enumerate(levels, 1)
    )
    return PoolsConfig(arms=arms, template="few_shot")
