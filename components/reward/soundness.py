"""Is a reward sound? Its scores of answers that must be right and of answers that must be wrong, before any training.

    rows ──► probes.py: the reference, nothing, the prompt, another row's answer, all answers at once, ...
                 │
                 ▼
    scorer (attempts -> verdicts) ──► values ──► checks ──► findings: red or yellow, each with row, expected, found, action

A red finding means that training would learn something else than the task. For example, a reward that pays for an empty answer is
red. A yellow finding is a question to the user. Everything here is a pure function of a scoring callable and the rows.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from instar.components.reward.findings import Finding, Severity, Soundness
from instar.components.reward.probes import SOFT, TRIVIAL, Sample, attempt, constants, probes, same
from instar.components.reward.signatures import Attempt
from instar.components.reward.verifiers import Abstain, Failed, Verdict
from instar.errors import RewardError
from instar.plain import brief

Scorer: TypeAlias = Callable[[Sequence[Attempt]], Sequence[Verdict]]
ROWS, LEAST_ROWS = 48, 6
"""How many rows are tried: fewer, down to the second number, if a call is slow."""
SECONDS = 20.0
"""About how long the probes may take."""
SLOW = 1.0
"""Seconds of a call that are too long to make it for every row."""
FEW = 0.2
"""Share of the rows up to which a wrong answer may be right by accident. For example, 1/2 is right where 0.5 is."""
NEAR = 1e-9


@dataclass(frozen=True)
class Value:
    """A verdict as numbers: the share that is right, what is paid, or why there is neither."""

    correct: float | None
    reward: float | None
    failed: str = ""

    @property
    def right(self) -> bool:
        """Whether the answer counts as right."""
        return self.correct is not None and self.correct >= 0.5


def value_of(verdict: Verdict) -> Value:
    """Return the numbers of a verdict."""
    if isinstance(verdict, Failed):
        return Value(None, None, verdict.reason)
    if isinstance(verdict, Abstain):
        return Value(None, None)
    paid = getattr(verdict, "reward", None)
    return Value(verdict.correct, verdict.correct if paid is None else paid)


@dataclass
class _Trial:
    """All that was scored: kind of probe -> one value per sample, None where the kind says nothing about a sample."""

    samples: list[Sample]
    values: dict[str, list[Value | None]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def of(self, kind: str) -> Iterator[tuple[Sample, Value]]:
        """Yield the samples with the values of a kind."""
        for sample, value in zip(self.samples, self.values.get(kind, []), strict=False):
            if value is not None:
                yield sample, value


def check(open_scorer: Callable[[], Scorer], rows: Sequence[Sample], style: str) -> Soundness:
    """Run every check. `open_scorer` returns a scorer in a new process, without anything that an earlier one remembers."""
    if not rows:
        raise RewardError(expected="rows", found="none", where="--tasks", action="give a file with at least one row")
    score = open_scorer()
    warm = [attempt(sample, sample.answer or "", style) for sample in rows[:2]]
    score(warm)  # the first call starts a process and imports the file
    began = time.perf_counter()
    score(warm)
    trial = _Trial(spread(rows, _affordable((time.perf_counter() - began) / len(warm))))
    findings = [*repeatable(trial, score, open_scorer, style)]
    for kind, answers in probes(trial.samples).items():
        trial.values[kind] = _tried(trial.samples, answers, score, style)
    for judge in (failures, references, floors, payments, labels_missing):
        findings += judge(trial)
    findings += constant_answers(trial, score, style)
    findings += leaks(rows)
    findings += timing(trial, score, style)
    order = {"red": 0, "yellow": 1}
    names = ("repeatable", "failures", "references", "floors", "payments", "constants", "leaks", "timing")
    return Soundness(
        findings=tuple(sorted(findings, key=lambda f: order[f.severity])), numbers=trial.numbers, checks=names
    )


def _tried(samples: Sequence[Sample], answers: Sequence[str | None], score: Scorer, style: str) -> list[Value | None]:
    """Score one kind of answers. If the first one takes long, it is the only one: a text that stalls a reward stalls all rows."""
    values: list[Value | None] = [None] * len(samples)
    places = [place for place, answer in enumerate(answers) if answer is not None]
    for some in (places[:1], places[1:]):
        began = time.perf_counter()
        attempts = [attempt(samples[place], answers[place] or "", style) for place in some]
        for place, verdict in zip(some, score(attempts) if attempts else [], strict=True):
            values[place] = value_of(verdict)
        if time.perf_counter() - began > SLOW:
            break
    return values


def _affordable(seconds: float) -> int:
    """Return how many rows are tried if a call takes so long. Every row costs about 40 calls."""
    return max(LEAST_ROWS, min(ROWS, int(SECONDS / (40 * max(seconds, 1e-6)))))


def spread(rows: Sequence[Sample], count: int) -> list[Sample]:
    """Return `count` rows, evenly spread, so that every arm of a sorted file is among them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def repeatable(trial: _Trial, score: Scorer, open_scorer: Callable[[], Scorer], style: str) -> Iterator[Finding]:
    """Score the same answers again, in reverse, one by one, and in a new process. Every value must stay the same."""
    answers = probes(trial.samples)
    pairs = [
        (sample, attempt(sample, answer, style))
        for kind in ("reference", "other", "echo")
        for sample, answer in zip(trial.samples, answers.get(kind, []), strict=False)
        if answer is not None
    ]
    attempts = [one for _, one in pairs]
    first = [value_of(verdict) for verdict in score(attempts)]
    other_ways: dict[str, Callable[[], Sequence[Verdict]]] = {
        "a second time": lambda: score(attempts),
        "in reverse order": lambda: list(score(attempts[::-1]))[::-1],
        "one at a time": lambda: [score([one])[0] for one in attempts[:24]],
        "in a new process": lambda: open_scorer()(attempts),
    }
    actions = {
        "a second time": "remove what differs from call to call: random numbers, the clock, counters, caches, files",
        "in reverse order": "remove what earlier calls leave behind: global variables, caches, files",
        "one at a time": "score each completion by itself, because batches differ between a run and its replay",
        "in a new process": "remove what differs between processes: hash() of a text, the order of a set, times",
    }
    for way, again in other_ways.items():
        differing = [
            (sample, one, two)
            for (sample, _), one, two in zip(pairs, first, map(value_of, again()), strict=False)
            if not _equal(one, two)
        ]
        if differing:
            sample, one, two = differing[0]
            yield Finding(
                check="repeatable",
                severity="red",
                expected=f"the same score {way}",
                found=f"{_said(one)}, then {_said(two)}",
                where=sample.where,
                action=actions[way],
                rows=len(differing),
                of=len(pairs),
            )
            return


def _equal(one: Value, two: Value) -> bool:
    return (one.correct, one.reward, bool(one.failed)) == (two.correct, two.reward, bool(two.failed))


def _said(value: Value) -> str:
    if value.failed:
        return f"an error ({brief(value.failed)})"
    if value.correct is None and value.reward is None:
        return "no verdict"
    more = f" and reward {value.reward:g}" if value.reward is not None and value.reward != value.correct else ""
    return f"correct {value.correct:g}{more}" if value.correct is not None else f"reward {value.reward:g}"


def failures(trial: _Trial) -> Iterator[Finding]:
    """Report exceptions and values that are no numbers, by their kind. A failed call is no score, whatever the answer was."""
    by_reason: dict[str, list[tuple[str, Sample, str]]] = {}
    total = 0
    for kind in trial.values:
        for sample, value in trial.of(kind):
            total += 1
            if value.failed:
                by_reason.setdefault(value.failed.partition(":")[0], []).append((kind, sample, value.failed))
    trial.numbers["calls"], trial.numbers["failed"] = float(total), float(sum(map(len, by_reason.values())))
    for cases in by_reason.values():
        kind, sample, reason = cases[0]
        kinds = ", ".join(dict.fromkeys(kind for kind, _, _ in cases))
        yield Finding(
            check="failures",
            severity="red",
            expected="a finite number in the range of the function for every answer, and 0 for one that makes no sense",
            found=f"{brief(reason)} for: {kinds}",
            where=sample.where,
            action="return 0.0 for answers that cannot be read; a failed call is left out of the update and is never a 0",
            rows=len(cases),
            of=total,
        )


def references(trial: _Trial) -> Iterator[Finding]:
    """Check that the reference answer of every row is right, and that blanks around it do not matter."""
    pairs = list(trial.of("reference"))
    scored = [(s, v) for s, v in pairs if not v.failed]
    silent = [s for s, v in scored if v.correct is None and v.reward is None]
    outside = [(s, v) for s, v in scored if v.correct is None and v.reward is not None]
    wrong = [(s, v) for s, v in scored if v.correct is not None and v.correct < 1.0 - NEAR]
    trial.numbers["reference_right"] = float(len(scored) - len(silent) - len(outside) - len(wrong))
    if outside:
        yield _finding(
            "references",
            "red",
            outside,
            len(pairs),
            "a value in [0, 1], or a dict with `correct` in [0, 1] and `reward`",
            f"{_said(outside[0][1])} for the reference answer",
            "divide by the largest value, or return {'correct': ..., 'reward': ...}; without `correct` nothing can be compared",
        )
    if wrong:
        sample, value = wrong[0]
        yield _finding(
            "references",
            "red",
            wrong,
            len(pairs),
            f"correct 1 for the reference answer {brief(sample.answer)}",
            _said(value),
            "correct the reward or the row: a policy that answers right would not be paid",
        )
    if silent:
        every = len(silent) == len(pairs)
        yield _finding(
            "references",
            "red" if every else "yellow",
            [(s, None) for s in silent],
            len(pairs),
            "a verdict for the reference answer",
            "None, the word for no opinion",
            "return a number; tasks without a verdict teach nothing",
        )
    strict = [(s, v) for s, v in trial.of("reference with blanks") if v.correct is not None and not v.right]
    if strict and not wrong:
        yield _finding(
            "references",
            "yellow",
            strict,
            len(pairs),
            "the reference answer to be right with blanks or a line end around it",
            _said(strict[0][1]),
            "strip the answer, because policies often end with a line end",
        )


def _finding(
    name: str,
    severity: Severity,
    cases: Sequence[tuple[Sample, Any]],
    of: int,
    expected: str,
    found: str,
    action: str,
) -> Finding:
    return Finding(
        check=name,
        severity=severity,
        expected=expected,
        found=found,
        where=cases[0][0].where,
        action=action,
        rows=len(cases),
        of=of,
    )


def floors(trial: _Trial) -> Iterator[Finding]:
    """Check that answers which say nothing, and answers which say everything, are wrong."""
    paid = {kind: _above(trial, kind) for kind in TRIVIAL}
    said = [what for kind, what in TRIVIAL.items() if paid[kind]]
    if cases := [case for kind in TRIVIAL for case in paid[kind]]:
        yield _finding(
            "floors",
            "red",
            cases,
            sum(1 for kind in TRIVIAL for _ in trial.of(kind)),
            f"correct 0 for {', '.join(said)}",
            f"{_said(cases[0][1])}; the reference is {brief(cases[0][0].answer)}",
            "compare the answer as a whole with the reference, and return 0.0 for one that says nothing",
        )
    for kind, what in SOFT.items():
        above = _above(trial, kind)
        right, of = [(s, v) for s, v in above if v.right], sum(1 for _ in trial.of(kind))
        if above:
            yield _finding(
                "floors",
                "red" if len(right) > FEW * of else "yellow",
                right or above,
                of,
                f"correct 0 for {what}",
                f"{_said((right or above)[0][1])}; the reference is {brief((right or above)[0][0].answer)}",
                ACTIONS[kind],
            )


def _above(trial: _Trial, kind: str) -> list[tuple[Sample, Value]]:
    return [(sample, value) for sample, value in trial.of(kind) if (value.correct or 0.0) > NEAR]


ACTIONS = {
    "echo": "compare for equality: a test such as `reference in answer` is passed by repeating the prompt",
    "every answer": "accept one answer only: a list of all answers contains the right one",
    "long": "limit the length of what is read, or compare the whole answer",
    "other": "compare with the reference of the row itself",
}


def payments(trial: _Trial) -> Iterator[Finding]:
    """Check that no wrong answer earns as much as the right one, whatever parts the reward is the sum of."""
    top = {s.task_id: v.reward for s, v in trial.of("reference") if v.reward is not None and v.correct != 0.0}
    for kind, what in {**TRIVIAL, **SOFT}.items():
        pairs = [(s, v) for s, v in trial.of(kind) if v.reward is not None and s.task_id in top]
        paid = [(s, v) for s, v in pairs if not v.right and (v.reward or 0.0) >= (top[s.task_id] or 0.0) - NEAR]
        if paid and len(paid) > FEW * len(pairs):
            sample, value = paid[0]
            yield _finding(
                "payments",
                "red",
                paid,
                len(pairs),
                f"less for {what} than for the reference, which earns {top[sample.task_id]:g}",
                _said(value),
                "lower the weights of the other parts, so that being right always earns most",
            )


def labels_missing(trial: _Trial) -> Iterator[Finding]:
    """Say if the rows have no reference answer, because most checks need one."""
    without = [(sample, None) for sample in trial.samples if sample.answer is None]
    if without:
        yield _finding(
            "references",
            "yellow",
            without,
            len(trial.samples),
            "a text as reference answer in every row",
            "none",
            "name the column of the answers; without them only repeatability, failures and answers that say nothing are checked",
        )


def constant_answers(trial: _Trial, score: Scorer, style: str) -> Iterator[Finding]:
    """Find the best answer that is the same for every task. It is right where it is the reference, and nowhere else."""
    with_answer = [sample for sample in trial.samples if sample.answer is not None]
    if len(with_answer) < 2:
        return
    common = Counter((sample.answer or "").strip().casefold() for sample in with_answer)
    majority = common.most_common(1)[0][1] / len(with_answer)
    best, share = "", 0.0
    for constant in constants(with_answer):
        values = list(map(value_of, score([attempt(sample, constant, style) for sample in with_answer])))
        right = math.fsum(value.correct or 0.0 for value in values) / len(values)
        if right > share:
            best, share = constant, right
    trial.numbers["best_constant"], trial.numbers["most_common_reference"] = share, majority
    red = share > max(majority + 0.1, 0.25) and share > 1.5 * majority
    if red or share >= 0.6:
        yield Finding(
            check="constants",
            severity="red" if red or share >= 0.9 else "yellow",
            expected=f"one answer for all tasks to be right for about {majority:.0%}, the share of the most common reference",
            found=f"{brief(best)} is right for {share:.0%}",
            where=f"{len(with_answer)} rows",
            action="make the comparison stricter"
            if red
            else "balance the answers of the rows: a policy can learn one of them",
            rows=round(share * len(with_answer)),
            of=len(with_answer),
        )


def leaks(rows: Sequence[Sample]) -> Iterator[Finding]:
    """Look for the reference in the prompt. Choices name every answer, so they count only if another row's answer is not there."""
    with_answer = [sample for sample in rows if sample.answer and len(sample.answer.strip()) >= 1]
    told = [(sample, None) for sample in with_answer if sample.tells_answer()]
    if told:
        yield _finding(
            "leaks",
            "red" if len(told) > 0.02 * len(with_answer) else "yellow",
            told,
            len(with_answer),
            "prompts without their reference",
            f"{brief(told[0][0].answer)} behind a word such as `answer:` in the prompt",
            "take the solution out of the prompt column",
        )
        return
    long = [sample for sample in with_answer if len((sample.answer or "").strip()) >= 3]
    own = [(sample, None) for sample in long if sample.contains(sample.answer or "")]
    foreign = sum(
        sample.contains(long[(index + 1) % len(long)].answer or "")
        for index, sample in enumerate(long)
        if not same(sample.answer, long[(index + 1) % len(long)].answer)
    )
    if len(own) > 0.5 * len(long) and foreign < 0.5 * len(own):
        yield _finding(
            "leaks",
            "red" if len(own) > 0.9 * len(long) else "yellow",
            own,
            len(long),
            "prompts without their reference",
            f"{brief(own[0][0].answer)} in the prompt, and not the answers of other rows",
            "take the solution out of the prompt column, or accept this if copying is the task",
        )


def timing(trial: _Trial, score: Scorer, style: str) -> Iterator[Finding]:
    """Measure single calls, and one call with a very long text."""
    sample, seconds = trial.samples[0], []
    for other in trial.samples:
        began = time.perf_counter()
        score([attempt(other, other.answer or "1", style)])
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    began = time.perf_counter()
    score([attempt(sample, "1 + " * 5_000, style)])
    long = time.perf_counter() - began
    p50, p99 = seconds[len(seconds) // 2], seconds[min(len(seconds) - 1, math.ceil(0.99 * len(seconds)) - 1)]
    trial.numbers |= {"p50_ms": 1000 * p50, "p99_ms": 1000 * p99, "long_ms": 1000 * long}
    if p99 > 0.5:
        yield Finding(
            check="timing",
            severity="yellow",
            expected="calls below 0.5 s",
            found=f"{p50:.2f} s in the middle, {p99:.2f} s at the 99th percentile",
            where=sample.where,
            action="make it faster: a step scores hundreds of completions",
        )
    if long > 1.0 and long > 20 * p50:
        yield Finding(
            check="timing",
            severity="red",
            expected="a time that grows with the length of the answer, and no faster",
            found=f"{long:.1f} s for 20,000 characters, {1000 * p50:.1f} ms for an ordinary answer",
            where=sample.where,
            action="cut the answer before it is parsed, and avoid nested repetitions such as (a+)+ in regular expressions",
        )
