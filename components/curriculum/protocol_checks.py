"""What every curriculum strategy must keep, as checks that tests and `instar check` share.

    histories: statistics of several updates ──► play: observe, select ──► state, pairs and metrics are compared

A strategy that forgets something at a restart, or that looks at the order of rows, trains without an error and learns otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from instar import seeds
from instar.components.curriculum.pool import Arm
from instar.components.curriculum.protocol import Draw, Strategy
from instar.errors import ContractError, LedgerError
from instar.plain import brief
from instar.rows import ArmStatsRow

ARMS = tuple(Arm(name=f"arm{i}", level=float(i), size=10 + i, digest=f"d{i}") for i in range(4))
"""Arms of the checks, from easy to hard."""
SLOTS, ROLLOUTS = 9, 4
History: TypeAlias = list[list[ArmStatsRow]]
"""Statistics of one update after the other. An arm that was not drawn has no row."""
Build: TypeAlias = Callable[[Sequence[Arm]], Strategy]


def stats_of(numbers: Mapping[str, tuple[int, int]]) -> list[ArmStatsRow]:
    """Return rows of arms with (groups, right answers) of 4 rollouts per group. All sums are plain functions of both."""
    zero = {field.name: 0 for field in dataclasses.fields(ArmStatsRow)}
    rows = []
    for arm, (groups, right) in numbers.items():
        rate = right / (ROLLOUTS * groups)
        spread = ROLLOUTS * groups * 2.0 * math.sqrt(rate * (1 - rate))
        sums = {name: spread for name in zero if name.startswith("sum_abs")}
        counts = {
            "num_prompts": groups,
            "num_rollouts": ROLLOUTS * groups,
            "sum_correct": float(right),
            "sum_reward": float(right),
            "sum_loss_change": float(right) - 2.0 * groups,
        }
        rows.append(ArmStatsRow(**{**zero, **sums, **counts, "arm": arm}))  # type: ignore[arg-type]
    return rows


def histories(count: int = 6) -> list[History]:
    """Return histories of one to five updates, in which any arm may be absent. They are the same every time."""
    out = []
    for number in range(count):
        rng = seeds.rng("protocol", number, "curriculum", "history")
        history = []
        for _ in range(1 + number % 5):
            groups = {arm.name: int(rng.integers(0, 7)) for arm in ARMS}
            drawn = {name: count for name, count in groups.items() if count}
            history.append(stats_of({name: (n, int(rng.integers(0, ROLLOUTS * n + 1))) for name, n in drawn.items()}))
        out.append(history)
    return out


def play(strategy: Strategy, history: History, first: int = 0) -> list[list[tuple[str, float]]]:
    """Let a strategy observe and select, update after update. Return what it selected."""
    out = []
    for step, stats in enumerate(history, start=first):
        strategy.observe(stats)
        out.append(strategy.select(SLOTS, Draw(evolution="e", step=step, key="k")))
    return out


def reload(strategy: Strategy, build: Build) -> Strategy:
    """Return a new strategy with the state of another one, passed through JSON text as a restart does."""
    fresh = build(ARMS)
    fresh.load_state_dict(json.loads(json.dumps(strategy.state_dict(), allow_nan=False)))
    return fresh


def restored(build: Build, history: History, cut: int) -> None:
    """Check that a strategy which is saved and restored at any step goes on as one that was not."""
    whole, part = build(ARMS), build(ARMS)
    expected = play(whole, history)
    before = play(part, history[:cut])
    again = reload(part, build)
    _same("state after saving and restoring", part.state_dict(), again.state_dict())
    _same("selection after a restart", expected, before + play(again, history[cut:], cut))
    _same("state after a restart", whole.state_dict(), again.state_dict())
    _same("metrics after a restart", whole.metrics(), again.metrics())


def repeated(build: Build, history: History) -> None:
    """Check that equal histories give equal selections, because random numbers come from `draw` only."""
    _same(
        "selection of a second strategy with the same history", play(build(ARMS), history), play(build(ARMS), history)
    )


def proper(build: Build, history: History) -> None:
    """Check that every selection has the right size and arms, and the probabilities that the metrics state."""
    strategy, names = build(ARMS), {arm.name for arm in ARMS}
    for step, stats in enumerate(history):
        strategy.observe(stats)
        pairs = strategy.select(SLOTS, Draw(evolution="e", step=step, key="k"))
        metrics = strategy.metrics()
        _require(len(pairs) == SLOTS, f"{SLOTS} pairs from select({SLOTS}, ...)", f"{len(pairs)}", PAIRS)
        unknown = sorted({arm for arm, _ in pairs} - names)
        _require(not unknown, f"arms of {sorted(names)}", f"{unknown}", PAIRS)
        for name in names:
            _require(f"{name}/p" in metrics, f"a metric {name}/p for every arm", f"{sorted(metrics)}", METRICS)
        stated = {arm: (p, metrics[f"{arm}/p"]) for arm, p in pairs if p != metrics[f"{arm}/p"] or not p > 0.0}
        _require(not stated, "for every pair the probability of the metric <arm>/p, above 0", f"{stated}", METRICS)
        total = math.fsum(metrics[f"{name}/p"] for name in names)
        _require(abs(total - 1.0) < 1e-6, "probabilities that add up to 1", f"{total:g}", METRICS)
        _require(all(map(math.isfinite, metrics.values())), "finite metrics", f"{metrics}", METRICS)
        entropy = metrics.get("entropy", -1.0)
        _require(0.0 <= entropy <= math.log(len(names)) + 1e-9, "a metric `entropy` in nats", f"{entropy:g}", METRICS)


def order_free(build: Build, rows: Sequence[ArmStatsRow]) -> None:
    """Check that the order of the rows does not matter."""
    states = []
    for order in (rows, rows[::-1]):
        strategy = build(ARMS)
        play(strategy, [list(order)])
        states.append(strategy.state_dict())
    _same("state after the same rows in reverse", *states)


def complete(build: Build, rows: Sequence[ArmStatsRow]) -> None:
    """Check that a state without a field or an arm, or with one more, is refused by a `LedgerError`."""
    strategy = build(ARMS)
    play(strategy, [list(rows)])
    for what, state in _broken(strategy.state_dict()):
        try:
            build(ARMS).load_state_dict(state)
        except LedgerError:
            continue
        raise _wrong(f"an error from load_state_dict() for a state {what}", "a strategy that goes on with it", STATE)


def _broken(state: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in state:
        yield f"without {name}", {key: value for key, value in state.items() if key != name}
    yield "with an unknown field", {**state, "surplus": 1}
    for name, value in state.items():
        if isinstance(value, dict):
            yield f"whose {name} lacks an arm", {**state, name: {k: v for k, v in value.items() if k != ARMS[2].name}}
            yield f"whose {name} has an unknown arm", {**state, name: {**value, "arm9": 0.0}}


def only_declared(build: Build, requires: frozenset[str], rows: Sequence[ArmStatsRow]) -> None:
    """Check that columns which are not declared as required may hold anything."""
    columns = {field.name for field in dataclasses.fields(ArmStatsRow)}
    unknown = sorted(requires - {f"stats.{column}" for column in columns})
    _require(not unknown, "columns of ArmStatsRow", f"{unknown}")
    noise: dict[str, Any] = {name: 77 for name in columns - {"arm"} if f"stats.{name}" not in requires}
    noisy = [dataclasses.replace(row, **noise) for row in rows]
    plain, other = build(ARMS), build(ARMS)
    selections = [play(plain, [list(rows)] * 2), play(other, [noisy] * 2)]
    _same("selection with other values in columns that are not declared", *selections)
    _same("state with other values in columns that are not declared", plain.state_dict(), other.state_dict())


def problems(build: Build) -> Iterator[ContractError]:
    """Yield what a strategy does not keep, one error per check."""
    rows = stats_of({"arm0": (3, 2), "arm1": (2, 5), "arm3": (4, 9)})
    checks: list[Callable[[], None]] = [lambda: order_free(build, rows), lambda: complete(build, rows)]
    for history in histories():
        checks += [lambda h=history: repeated(build, h), lambda h=history: proper(build, h)]  # type: ignore[misc]
        checks += [lambda h=history: restored(build, h, len(h) // 2)]  # type: ignore[misc]
    expected: set[str] = set()
    for check in checks:
        try:
            check()
        except ContractError as error:
            if error.expected not in expected:
                expected.add(error.expected)
                yield error


def _same(what: str, one: Any, two: Any) -> None:
    _require(one == two, f"the same {what}", f"{brief(one)}, then {brief(two)}")


METRICS = "let metrics() return `entropy` and, for every arm, the probability with which select() draws it as `<arm>/p`"
PAIRS = "let select() return one pair of an arm and its probability for every slot"
STATE = "let load_state_dict() raise for a state that lacks a part or has an unknown one"
MEMORY = (
    "keep everything that the strategy remembers in state_dict(), and take every random number from what select() gets"
)
"""What to do about a finding."""


def _require(holds: bool, expected: str, found: str, action: str = MEMORY) -> None:
    if not holds:
        raise _wrong(expected, found, action)


def _wrong(expected: str, found: str, action: str) -> ContractError:
    return ContractError(expected=expected, found=found, where="curriculum strategy", action=action)
