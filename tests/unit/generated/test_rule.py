"""The rule that makes tasks of groups: the published mix, even labels at every accuracy, nothing shown twice. Ten seconds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.components.generated.groups import Attempt, Group
from instar.components.generated.rule import Pick, Rule, judges, key_of_pick, reflections
from support.attempts import task

PUBLISHED, FIXED = Rule(balance="none", confirm_share=0.0), Rule()
STEPS = 60


def group(number: int, right: int, wrong: int, arm: str = "a") -> Group:
    sides = [
        tuple(Attempt(text=f"{s}{i} so {i}", answer=f"{s}{i}") for i in range(n))
        for s, n in (("r", right), ("w", wrong))
    ]
    return Group(group_id=f"g{number}", parent=task(number, arm), policy="p", right=sides[0], wrong=sides[1])


def groups(rate: float, seed: int, num: int = 64, size: int = 8) -> list[Group]:
    """Return groups whose solve probabilities are Beta(2 rate, 2 (1 - rate)); the hardest third is arm `hard`."""
    rng = np.random.default_rng(seed)
    chances = np.sort(rng.beta(2 * rate, 2 * (1 - rate), num))
    right = rng.binomial(size, chances)
    return [group(i, int(k), size - int(k), "hard" if i < num // 3 else "easy") for i, k in enumerate(right)]


def always(key: str) -> bool:
    return bool(key)


def run(rule: Rule, made: list[Group], seed: int) -> list[Pick]:
    rng = np.random.default_rng(seed)
    return judges(made, rule, ["P1", "P2"], always, rng) + reflections(made, rule, True, True, always, rng)


def mean_counts(rule: Rule, rate: float) -> dict[tuple[str, bool], float]:
    counts: Counter[tuple[str, bool]] = Counter()
    for seed in range(STEPS):
        counts.update(
            (pick.kind.partition("-")[0] if "reflect" in pick.kind else pick.kind, pick.first)
            for pick in run(rule, groups(rate, seed), seed)
        )
    return {name: count / STEPS for name, count in counts.items()}


def test_the_published_rule_makes_the_published_mix() -> None:
    """SPARK section 10: at 45 % 32 judge tasks, about 6 Yes, 8 No and 18 pairs, and 32 reflections; at 85 % 32 and 27."""
    counts = mean_counts(PUBLISHED, 0.45)
    assert counts["judge-point", True] == pytest.approx(6, abs=1)
    assert counts["judge-point", False] == pytest.approx(8, abs=1)
    assert counts["judge-pair", True] + counts["judge-pair", False] == pytest.approx(18, abs=1)
    assert counts["reflect", False] == pytest.approx(32, abs=0.5) and ("reflect", True) not in counts
    late = mean_counts(PUBLISHED, 0.85)
    assert sum(n for (kind, _), n in late.items() if kind != "reflect") == pytest.approx(32, abs=0.5)
    assert late["reflect", False] == pytest.approx(27, abs=1.5)


SHARES = [
    (0.45, 0.45),
    (0.85, 0.90),
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((0.2, 0.15), (0.6, 0.63), (0.75, 0.81))),
]


@pytest.mark.parametrize(("rate", "share"), SHARES)
def test_published_labels_follow_the_policy_and_balanced_ones_do_not(rate: float, share: float) -> None:
    """The measured drift of SPARK section 9, trap 2, and its absence by default."""
    drifting, even = mean_counts(PUBLISHED, rate), mean_counts(FIXED, rate)
    yes, no = (drifting["judge-point", label] for label in (True, False))
    assert yes / (yes + no) == pytest.approx(share, abs=0.04)
    assert even["judge-point", True] == even["judge-point", False] > 6


counts = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from("ab")), min_size=1, max_size=40)


@given(counts, st.integers(0, 1000), st.sampled_from(["label", "arm"]), st.floats(0.0, 1.0), st.integers(0, 40))
@settings(deadline=None, max_examples=150)
def test_balanced_classes_are_equal_whatever_the_groups(
    sizes: list[tuple[int, int, str]], seed: int, balance: str, pair_share: float, most: int
) -> None:
    made = [group(i, right, wrong, arm) for i, (right, wrong, arm) in enumerate(sizes)]
    rule = Rule(balance=balance, pair_share=pair_share, judges=most)  # type: ignore[arg-type]
    picks = judges(made, rule, ["P1"], always, np.random.default_rng(seed))
    assert len(picks) <= most and len({p.group.group_id for p in picks}) == len(picks)
    for arm in ("a", "b") if balance == "arm" else ("ab",):
        points = [p for p in picks if p.kind == "judge-point" and p.group.parent.arm in arm]
        assert sum(p.first for p in points) * 2 == len(points)
    pairs = [p for p in picks if p.kind == "judge-pair"]
    assert abs(2 * sum(p.first for p in pairs) - len(pairs)) <= 1
    for pick in picks:
        assert [a.answer in {r.answer for r in pick.group.right} for a in pick.shown] == (
            [pick.first] if pick.kind == "judge-point" else [pick.first, not pick.first]
        )


def test_with_balance_per_arm_the_difficulty_says_nothing_about_the_label() -> None:
    """Easy groups are all right and hard ones all wrong: balanced over all arms, "easy means yes" is always right."""
    made = [group(i, 8, 0, "easy") for i in range(20)] + [group(20 + i, 0, 8, "hard") for i in range(20)]
    picks = judges(made, Rule(), ["P1"], always, np.random.default_rng(0))
    assert len(picks) == 32 and all(p.first == (p.group.parent.arm == "easy") for p in picks)
    assert judges(made, Rule(balance="arm"), ["P1"], always, np.random.default_rng(0)) == []


def test_reflection_shows_right_attempts_too_and_never_calls_them_wrong() -> None:
    made = groups(0.5, 3)
    picks = reflections(made, FIXED, True, True, always, np.random.default_rng(1))
    assert Counter(p.first for p in picks) == {True: 8, False: 24}
    assert {p.family for p in picks if p.first} == {"P4", "P5"}
    assert {p.family for p in picks if not p.first} == {"P4", "P5", "P6"}
    kinds = Counter((p.first, p.kind) for p in picks)
    assert kinds[True, "reflect-trace"] == kinds[True, "reflect-answer"] == 4
    assert kinds[False, "reflect-trace"] == kinds[False, "reflect-answer"] == 12
    assert all(p.kind == ("reflect-trace" if p.family == "P4" else "reflect-answer") or p.family == "P6" for p in picks)


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [(64, 0, {}), (60, 4, {False: 4, True: 1}), (0, 64, {False: 32}), (2, 62, {True: 2, False: 30})],
)
def test_where_one_side_runs_out_the_other_does_not_take_over_agreeing(
    right: int, wrong: int, expected: dict[bool, int]
) -> None:
    """4 wrong ones allow round(4 / 3) = 1 right one; 2 right ones leave 30 places to the wrong ones."""
    made = [group(i, 8, 0) for i in range(right)] + [group(100 + i, 0, 8) for i in range(wrong)]
    picks = reflections(made, FIXED, True, True, always, np.random.default_rng(1))
    assert Counter(p.first for p in picks) == expected


def test_a_share_of_few_tasks_is_kept_over_steps() -> None:
    """A quarter of two tasks: one right attempt in half of 400 steps, give or take four standard errors of .025."""
    made, rule = groups(0.5, 3), Rule(reflections=2)
    rng = np.random.default_rng(1)
    counts = [sum(p.first for p in reflections(made, rule, True, True, always, rng)) for _ in range(400)]
    assert set(counts) == {0, 1} and np.mean(counts) == pytest.approx(0.5, abs=0.1)


def test_without_traces_and_known_wrong_prompts_there_is_one_family() -> None:
    picks = reflections(groups(0.5, 3), FIXED, False, False, always, np.random.default_rng(1))
    assert {(p.kind, p.family) for p in picks} == {("reflect-answer", "P5")}


def test_an_attempt_without_an_answer_is_only_shown_whole() -> None:
    mute = Group(
        group_id="g", parent=task(0), policy="p", right=(), wrong=(Attempt(text="I do not know", answer=None),)
    )
    rng = np.random.default_rng(0)
    assert judges([mute], FIXED, ["P1"], always, rng) == []
    assert [p.kind for p in reflections([mute], FIXED, False, True, always, rng)] == ["reflect-trace"]
    assert reflections([mute], FIXED, False, False, always, rng) == []


@given(st.integers(0, 200))
@settings(deadline=None, max_examples=20)
def test_what_was_shown_lately_is_not_shown_and_the_rest_stays_balanced(seed: int) -> None:
    made = groups(0.6, seed)
    seen = {key_of_pick(p) for step in range(6) for p in run(FIXED, made, step)}
    picks = judges(made, FIXED, ["P1", "P2"], lambda key: key not in seen, np.random.default_rng(seed))
    assert picks and not {key_of_pick(p) for p in picks} & seen
    points = [p for p in picks if p.kind == "judge-point"]
    assert sum(p.first for p in points) * 2 == len(points)
