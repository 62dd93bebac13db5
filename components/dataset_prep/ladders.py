"""Ladders: arms of one domain that grow harder step by step. A recipe says how long they are and how many tasks an arm has."""

from __future__ import annotations

from collections.abc import Sequence

from instar.components.dataset_prep.config import ArmConfig, PoolsConfig


def ladder(
    domain: str, levels: Sequence[tuple[int, dict[str, int]]], train: int, val: int, test: int
) -> tuple[ArmConfig, ...]:
    """Return one arm per pair of level and parameters. The last arm is out of distribution: it is tested, never trained on."""
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
    """Return few-shot pools of sums and products of one digit and sums of two digits and one; two and two are only tested.

    Sizes are train, val and test; `wider` are those of the sums with two digits. An arm of one digit has 45 tasks in all, of which
    three are shown as solved.
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
