"""An advantage of the user's, and a choice of groups of the user's. Both are functions of the batch, and run in a sandbox.

    def advantage(rewards, groups): ...        -> one number for each rollout
    def keep(correct, groups): ...             -> true or false for each group, in the order of their numbers

A function gets what its parameters name: `rewards`, `correct` (a share), `groups` (numbers from 0), `lengths` (action tokens) and
`truncated`. All of them have one value for each scored rollout.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from instar.components.sandbox.config import UserCode
from instar.components.sandbox.sandbox import Fault, open_sandbox
from instar.components.update.update_batch import UpdateBatch
from instar.contract import Context
from instar.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.stage import Ins


def with_own(data: UpdateBatch, ins: Ins, config: PolicyGradientConfig, ctx: Context) -> UpdateBatch:
    """Return the batch with what the user's functions say about it."""
    rows = np.flatnonzero(data.valid)
    if config.advantage is not None:
        values = _call(config.advantage, data, ins, ctx)
        if len(values) != len(rows) or not all(_finite(value) for value in values):
            raise _wrong(f"{len(rows)} finite numbers, one for each rollout", values, config.advantage)
        advantage = np.zeros(len(data.group))
        advantage[rows] = values
        data = dataclasses.replace(data, own_advantage=advantage)
    if config.filter.function is not None:
        choice = _call(config.filter.function, data, ins, ctx)
        if len(choice) != data.num_groups or not all(isinstance(value, bool) for value in choice):
            raise _wrong(f"{data.num_groups} times true or false, one for each group", choice, config.filter.function)
        data = dataclasses.replace(data, own_choice=np.array(choice, dtype=np.bool_))
    return data


def _call(code: UserCode, data: UpdateBatch, ins: Ins, ctx: Context) -> list[Any]:
    """Return the list that a function of the user's returns for this batch."""
    assert ins.update_code is not None
    rows = np.flatnonzero(data.valid)
    there = {
        "rewards": data.reward[rows].tolist(),
        "correct": data.correct[rows].tolist(),
        "groups": data.group[rows].tolist(),
        "lengths": data.lengths[rows].tolist(),
        "truncated": data.truncated[rows].tolist(),
    }
    sandbox = open_sandbox(ins.update_code, code.sandbox, ctx.resident)
    signature = sandbox.signature(code.entry)
    if unknown := [name for name in signature.required if name not in there]:
        raise ConfigError(
            expected=f"parameters among {', '.join(there)}",
            found=unknown[0],
            where=code.entry,
            action="rename the parameter",
        )
    (value,) = sandbox.calls(code.entry, [{name: there[name] for name in signature.parameters if name in there}])
    if isinstance(value, Fault):
        raise ContractError(
            expected="a list",
            found=f"{value.reason}\n{value.traceback}".strip(),
            where=code.entry,
            action="correct the code",
        )
    if not isinstance(value, list):
        raise _wrong("a list", value, code)
    return value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(expected: str, value: Any, code: UserCode) -> ContractError:
    size = f"{len(value)} values: " if isinstance(value, list) else ""
    return ContractError(
        expected=expected, found=f"{size}{repr(value)[:200]}", where=code.entry, action="correct the code"
    )
