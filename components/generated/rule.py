"""Which attempts become which generated tasks: the published rule of SPARK (section 2), and a balance of labels that it lacks.

The rule makes at most one judge task of each group of attempts. A group whose attempts are all right, or all wrong, gives a
pointwise task: it shows one attempt. A group with both gives a pair with probability `pair_share`. Otherwise it gives a pointwise
task, and a coin decides whether that shows a right or a wrong attempt.

The published rule has a weakness. The share of right attempts among pointwise tasks follows the accuracy of the policy. When the
policy solves 90% of its tasks, a judge that always says yes is rewarded for it. With `balance`, groups with both take the class
that has fewer tasks, and tasks that still have no counterpart are left out. So as many right as wrong attempts are shown. `label`
balances over all tasks. `arm` balances inside every arm, so that the difficulty of a task does not give its label away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeVar

import numpy as np

from instar.components.generated.groups import Attempt, Group
from instar.components.generated.item import key_of

T = TypeVar("T")
Fresh = Callable[[str], bool]
"""Takes the key of a task and returns True when no task with that key was made lately."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How many tasks of which kind a step makes. Where a default differs from SPARK's released code, the field says so."""

    judges: int = 32
    """The largest number of judge tasks per step."""
    reflections: int = 32
    """The largest number of reflection tasks per step."""
    pair_share: float = 0.7
    """Probability that a group with right and wrong attempts becomes a pair."""
    balance: Literal["none", "label", "arm"] = "label"
    """Where pointwise tasks show as many right as wrong attempts: over all tasks, inside every arm, or nowhere. The released code
    does not balance."""
    confirm_share: float = 0.25
    """Share of reflection tasks that show a right attempt. Their expected answer is the shown one. It is 0 in the released code."""
    known_wrong_share: float = 1 / 3
    """Share of the reflection tasks with a wrong attempt whose prompt says that the attempt is wrong."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One generated task before it has a prompt.

    `first` says which of the two labels holds. For one attempt, True means that it is right. For a pair, True means that the first
    answer is the right one.
    """

    kind: str
    family: str
    group: Group
    shown: tuple[Attempt, ...]
    first: bool


@dataclass(kw_only=True)
class _Options:
    """The judge tasks that one group can become: a pair, a pointwise task of a right attempt, or one of a wrong attempt."""

    group: Group
    family: str
    pair: tuple[Attempt, Attempt] | None
    right: Attempt | None
    wrong: Attempt | None


@dataclass(kw_only=True)
class _Plan:
    """Groups, sorted by what they become: a pair, a pointwise task of one class, or a pointwise task of either class (`free`)."""

    pairs: list[_Options] = field(default_factory=list)
    right: list[_Options] = field(default_factory=list)
    wrong: list[_Options] = field(default_factory=list)
    free: list[_Options] = field(default_factory=list)


def judges(
    groups: Sequence[Group],
    rule: Rule,
    families: Sequence[str],
    fresh: Fresh,
    rng: np.random.Generator,
    *,
    once: bool = True,
) -> list[Pick]:
    """Return the judge tasks of a step. `families` are the pointwise families that the wording has.

    With `once`, no two tasks of the step ask the same question. Repeats are left out before the classes are balanced. They are
    mostly right answers, because right answers to one task are alike. Leaving them out afterwards would undo the balance.
    """
    plan, taken = _Plan(), set[str]()

    def new(key: str) -> bool:
        return key not in taken and fresh(key)

    for group in groups:
        options = _options(group, families[int(rng.integers(len(families)))], new, rng)
        if once:
            taken.update(_keys(options))
        _place(plan, options, rule, rng)
    if rule.balance == "none":
        for options in plan.free:
            (plan.right if rng.random() < 0.5 else plan.wrong).append(options)
        points = [_point(o, True) for o in plan.right] + [_point(o, False) for o in plan.wrong]
        firsts = [bool(rng.random() < 0.5) for _ in plan.pairs]
        every = points + [_pair(o, first) for o, first in zip(plan.pairs, firsts, strict=True)]
        return _some(every, rule.judges, rng)
    couples = _couples(plan, rule.balance, rng)
    total = 2 * len(couples) + len(plan.pairs)
    keep = len(couples) if total <= rule.judges else rule.judges * len(couples) // total
    pairs = _some(plan.pairs, rule.judges - 2 * keep, rng)
    start = int(rng.integers(2))
    return [pick for couple in _some(couples, keep, rng) for pick in couple] + [
        _pair(options, (number + start) % 2 == 0) for number, options in enumerate(pairs)
    ]


def reflections(
    groups: Sequence[Group],
    rule: Rule,
    known_wrong: bool,
    traces: bool,
    fresh: Fresh,
    rng: np.random.Generator,
    *,
    once: bool = True,
) -> list[Pick]:
    """Return the reflection tasks of a step.

    `known_wrong` says whether the wording has a prompt for attempts that are known to be wrong (P6). `traces` says whether it has
    one that shows a whole attempt (P4). `once` means the same as for `judges`.

    Whole attempts and answers alone take turns. When there are too few wrong attempts, fewer right ones are shown as well. Else
    most prompts would show a right attempt, and the model would learn to agree with every attempt.
    """
    share = rule.confirm_share * rule.reflections
    target = int(share)
    if share > target:  # a quarter of 2 tasks is 0.5: one task in every second step on average, instead of never one
        target += bool(rng.random() < share - target)
    outright = rule.known_wrong_share if known_wrong else 0.0
    taken = set[str]() if once else None
    wrong_ones = _reflections(groups, False, traces, outright, fresh, rng, taken)
    right_ones = _reflections(groups, True, traces, 0.0, fresh, rng, taken)
    wrong = list(islice(wrong_ones, rule.reflections - target))
    if len(wrong) < rule.reflections - target:
        target = min(target, round(len(wrong) * rule.confirm_share / (1.0 - rule.confirm_share)))
    right = list(islice(right_ones, target))
    missing = rule.reflections - len(wrong) - len(right)
    return [*wrong, *right, *islice(wrong_ones, missing)]


def _reflections(
    groups: Sequence[Group],
    first: bool,
    traces: bool,
    outright: float,
    fresh: Fresh,
    rng: np.random.Generator,
    taken: set[str] | None,
) -> Iterator[Pick]:
    """Yield one task per group, in random order. `first` chooses between the right and the wrong attempts of a group.

    A group is skipped when each of its tasks was made lately. Every second task shows a whole attempt. A group without any
    readable answer shows a whole attempt too. `taken` holds the keys of the tasks of this step, and each new key is added to it.
    None allows repeats.
    """
    whole = bool(rng.integers(2))
    for group in _some(groups, len(groups), rng):
        side = group.right if first else group.wrong
        trace = traces and (whole or not any(a.answer for a in side))
        family = "P6" if rng.random() < outright else "P4" if trace else "P5"
        keys = {a: _key(group, family, a, trace=trace) for a in side if trace or a.answer}
        able = [a for a in side if a in keys and fresh(keys[a]) and keys[a] not in (taken or ())]
        chosen = _one(able, rng)
        if chosen is not None:
            if taken is not None:
                taken.add(keys[chosen])
            kind = "reflect-trace" if trace else "reflect-answer"
            yield Pick(kind=kind, family=family, group=group, shown=(chosen,), first=first)
            whole = not whole


def _options(group: Group, family: str, fresh: Fresh, rng: np.random.Generator) -> _Options:
    """Draw a right attempt, a wrong attempt and a pair. All have a readable answer, and none was shown lately."""
    right, wrong = ([a for a in side if a.answer] for side in (group.right, group.wrong))
    combos = [(r, w) for r in right for w in wrong if fresh(_key(group, "P3", r, w))]
    sides = [_one([a for a in side if fresh(_key(group, family, a))], rng) for side in (right, wrong)]
    return _Options(group=group, family=family, pair=_one(combos, rng), right=sides[0], wrong=sides[1])


def _keys(options: _Options) -> set[str]:
    """Return the keys of all judge tasks that a group can become."""
    points = [_key(options.group, options.family, a) for a in (options.right, options.wrong) if a]
    return {*points, _key(options.group, "P3", *options.pair)} if options.pair else set(points)


def _place(plan: _Plan, options: _Options, rule: Rule, rng: np.random.Generator) -> None:
    coin = rng.random()
    if options.pair and (coin < rule.pair_share or not (options.right or options.wrong)):
        plan.pairs.append(options)
    elif options.right and options.wrong:
        plan.free.append(options)
    elif options.right or options.wrong:
        (plan.right if options.right else plan.wrong).append(options)


def _couples(plan: _Plan, balance: str, rng: np.random.Generator) -> list[tuple[Pick, Pick]]:
    """Return as many couples of pointwise tasks as the groups allow: one right and one wrong. Each group is used once at most."""
    out = []
    everyone = [*plan.right, *plan.wrong, *plan.free]
    for arm in sorted({o.group.parent.arm for o in everyone}) if balance == "arm" else [""]:
        right, wrong, free = (
            _some([o for o in side if not arm or o.group.parent.arm == arm], len(side), rng)
            for side in (plan.right, plan.wrong, plan.free)
        )
        short = min(max((len(wrong) + len(free) - len(right)) // 2, 0), len(free))
        right, wrong = right + free[:short], wrong + free[short:]
        for good, bad in zip(_some(right, len(right), rng), _some(wrong, len(wrong), rng), strict=False):
            out.append((_point(good, True), _point(bad, False)))
    return out


def _point(options: _Options, first: bool) -> Pick:
    shown = options.right if first else options.wrong
    assert shown is not None
    return Pick(kind="judge-point", family=options.family, group=options.group, shown=(shown,), first=first)


def _pair(options: _Options, first: bool) -> Pick:
    assert options.pair is not None
    right, wrong = options.pair
    shown = (right, wrong) if first else (wrong, right)
    return Pick(kind="judge-pair", family="P3", group=options.group, shown=shown, first=first)


def key_of_pick(pick: Pick) -> str:
    """Return the identity of the task that a pick becomes."""
    return _key(pick.group, pick.family, *pick.shown, trace=pick.kind == "reflect-trace")


def _key(group: Group, family: str, *shown: Attempt, trace: bool = False) -> str:
    return key_of(group.parent.task_id, [a.text if trace else a.answer or "" for a in shown], family)


def _one(items: Sequence[T], rng: np.random.Generator) -> T | None:
    return items[int(rng.integers(len(items)))] if items else None


def _some(items: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    """Return at most `count` items in random order."""
    return [items[i] for i in rng.permutation(len(items))[: max(count, 0)].tolist()]
