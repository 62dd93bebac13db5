"""Reflection at test time: every branch with scripted replies, and once with a real tiny model. About 20 s."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from instar.artifact import Evaluation, Policy, Tasks
from instar.components.evaluate.compare import compare
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.judge_config import JudgeConfig, ReflectConfig
from instar.components.evaluate.stage import STAGE, Ins, Outs
from instar.components.evaluate.summary import split_summary
from instar.contract import Context
from instar.errors import ConfigError, ContractError
from instar.pipelines.gate import GateConfig, decide
from unit.evaluate.judges import CONFIG, Reply, honest, scripted, with_anchors, with_reflect

MakePolicy = Callable[[str, Reply], Policy]
Run = Callable[..., tuple[Evaluation, dict[str, float]]]


@pytest.fixture
def pools(tasks: Tasks, tmp_path: Path) -> Tasks:
    return with_anchors(tasks, tmp_path / "anchored")


@pytest.fixture
def run(tmp_path: Path, pools: Tasks, context: Callable[[int], Context]) -> Run:
    def call(
        policy: Policy, config: AnswerConfig = CONFIG, baseline: Evaluation | None = None, pool: Tasks = pools
    ) -> tuple[Evaluation, dict[str, float]]:
        out = Evaluation(tmp_path / f"evaluation-{policy.digest}-{len(list(tmp_path.iterdir()))}")
        metrics = STAGE(Ins(tasks=pool, policy=policy, baseline=baseline), Outs(evaluation=out), config, context(0))
        return out, metrics

    return call


def solves(share: int) -> Callable[[int], str]:
    """Right on tasks 0 to `share` - 1 of each arm's 30, otherwise `x`."""
    return lambda number: str(number) if number < share else "x"


def opened(mode: str, **changes: Any) -> AnswerConfig:
    """Return settings under which reflection decides whatever it gains, to see what it does."""
    return with_reflect(mode=mode, **changes, **({"margin": 0.0, "least_gain": -1.0} if mode == "gated" else {}))


def dialogues(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    lines = (evaluation.path / "reflections.jsonl").read_text().splitlines()
    return {found["task_id"]: found for found in map(json.loads, lines)}


def test_wrong_answers_are_corrected_and_right_ones_are_kept(run: Run, make_policy: MakePolicy) -> None:
    """12 of 30 right, an honest judge, a corrector that knows all but 29: 29 of 30 after reflection."""
    fix = lambda number, answer: "x9" if number == 29 else str(number)  # noqa: E731
    evaluation, metrics = run(make_policy("p", scripted(solves(12), honest, fix)))
    after = evaluation.read_json("summary.json")["splits"]["val"]["reflected"]
    assert metrics["val/accuracy"] == after["plain"] == pytest.approx(0.4)
    assert after["score"] == metrics["val/reflected_accuracy"] == pytest.approx(29 / 30)
    assert after["gain"]["difference"] == pytest.approx(17 / 30) and after["gain"]["low"] > 0.3
    assert (after["wrong_to_right"], after["right_to_wrong"]) == (34, 0)
    # accepted at once: 2 calls (12); corrected and then accepted: 4 (17); x, x9, and the same x9 again: 5 (1)
    assert after["calls_mean"] == pytest.approx((12 * 2 + 17 * 4 + 5) / 30) and after["calls_max"] == 5
    assert after["rounds"] == {"0": 24, "1": 36} and after["ends"] == {"accepted": 58, "same answer": 2}
    assert after["gate"]["open"] and after["low"] < after["score"] <= after["high"]


def test_the_score_and_the_comparison_stay_those_of_plain_answers(run: Run, make_policy: MakePolicy) -> None:
    """With and without reflection: equal rows of every answer, equal scores, and the gate decides the same."""
    policy = make_policy("p", scripted(solves(12), honest))
    plain, _ = run(policy, dataclasses.replace(CONFIG, judge=None, reflect=None))
    reflected, _ = run(policy)
    kept = reflected.read()
    assert [r for r in kept if r.split != "anchor" and r.sample != -2] == plain.read()
    assert compare(kept, plain.read(), "val", CONFIG).difference == 0.0
    after = {r.task_id: (r.answer, r.score) for r in kept if r.sample == -2}
    assert after["easy/val/3"] == ("3", 1.0) and after["easy/val/20"] == ("20", 1.0) and len(after) == 60
    one, two = (e.read_json("summary.json") for e in (plain, reflected))
    extra = {"own", "reflected"}
    assert {k: v for k, v in two["splits"]["val"].items() if k not in extra} == one["splits"]["val"]
    assert split_summary(kept, "val", CONFIG)["arms"] == one["splits"]["val"]["arms"]
    assert "judge" not in one and "alarms" not in one and not (plain.path / "reflections.jsonl").exists()
    assert decide([one], GateConfig(target=0.4)) == decide([two], GateConfig(target=0.4))


@pytest.mark.parametrize(
    ("mode", "first", "verdict", "fixed", "final", "calls", "end"),
    [
        ("gated", "x", "y", "89", "x", 2, "accepted"),
        ("gated", "x", "n", "89", "9", 5, "rounds"),
        ("gated", "x", "zz", "89", "x", 2, "no verdict"),
        ("gated", "x", "", "89", "x", 2, "no verdict"),
        ("gated", "x", "n", "x", "x", 3, "same answer"),
        ("gated", "x", "n", "88", "8", 5, "same answer"),
        ("gated", "x", "n", " ", "x", 3, "unreadable rewrite"),
        ("gated", "", "n", "89", "", 1, "no answer"),
        ("published", "x", "y", "89", "x", 2, "accepted"),
        ("published", "x", "n", "89", "9", 5, "rounds"),
        ("published", "x", "zz", "89", "9", 5, "rounds"),
        ("published", "x", "", "89", "9", 5, "rounds"),
        ("published", "x", "n", "xx", "x", 5, "rounds"),
        ("published", "x", "n", " ", " ", 3, "no answer"),
    ],
)
def test_branches(
    run: Run, make_policy: MakePolicy, mode: str, first: str, verdict: str, fixed: str, final: str, calls: int, end: str
) -> None:
    """Task 7 alone takes the planted path; `fixed` holds its first and its second new answer."""
    chain = {fixed[0]: fixed[-1], first: fixed[0]}

    def judge(number: int, answer: str) -> str:
        return verdict if number == 7 and answer in chain else honest(number, answer)

    def fix(number: int, answer: str) -> str:
        return chain[answer] if number == 7 else answer

    policy = make_policy("p", scripted(lambda n: first if n == 7 else str(n), judge, fix))
    evaluation, _ = run(policy, opened(mode))
    found = dialogues(evaluation)["easy/val/7"]
    assert (found["answer"], found["calls"], found["end"]) == (final, calls, end)


@pytest.mark.parametrize("mode", ["gated", "published"])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_no_answer_that_was_accepted_changes_and_calls_are_bounded(
    run: Run, make_policy: MakePolicy, mode: str, rounds: int
) -> None:
    """Over random judges and correctors: after a Yes nothing is said any more, and 1 + 2 rounds calls are the most."""
    rng = np.random.default_rng(rounds)
    words = ["y", *["n"] * 12, "q", ""]
    most = 0
    for trial in range(4):
        table: dict[tuple[str, int, str], str] = {}

        def draw(kind: str, number: int, answer: str, options: list[str], table: Any = table) -> str:
            return str(table.setdefault((kind, number, answer), options[int(rng.integers(len(options)))]))

        policy = make_policy(
            f"{mode}{rounds}{trial}",
            scripted(
                solves(10),
                lambda n, a: honest(n, a) if a in (str(n), str(n)[::-1]) else draw("judge", n, a, words),
                lambda n, a: draw("fix", n, a, [str(n), "x", "1", "22", "3", "44", "5", ""]),
            ),
        )
        config = opened(mode, rounds=rounds)
        evaluation, _ = run(policy, config)
        assert evaluation.read_json("summary.json")["splits"]["val"]["reflected"]["calls_max"] <= 1 + 2 * rounds
        for found in dialogues(evaluation).values():
            assert config.reflect is not None and found["calls"] == len(found["turns"]) <= config.reflect.max_calls
            said = [turn["text"].strip() for turn in found["turns"]]
            by = [turn["by"] for turn in found["turns"]]
            for place, (who, text) in enumerate(zip(by, said, strict=True)):
                if who == "judge" and text == "y":
                    assert place == len(by) - 1 and found["end"] == "accepted"
                    assert found["answer"].strip() == said[place - 1]
            most = max(most, found["calls"])
    assert most == 1 + 2 * rounds


def test_a_closed_gate_reports_the_plain_answers(run: Run, make_policy: MakePolicy) -> None:
    """A judge that guesses: reflection would be measured on noise, so it is not done, and the summary says why."""
    guess = lambda number, answer: "y" if hash((number, len(answer))) % 2 else "n"  # noqa: E731
    evaluation, metrics = run(make_policy("p", scripted(solves(12), guess)))
    after = evaluation.read_json("summary.json")["splits"]["val"]["reflected"]
    assert after["score"] == after["plain"] == pytest.approx(0.4) and after["gain"]["difference"] == 0.0
    assert (after["calls_mean"], after["rounds"], after["ends"]) == (1.0, {"0": 60}, {})
    assert not after["gate"]["open"] and after["gate"]["reason"].startswith("closed: judge 0.")
    assert metrics["judge/gate_open"] == 0.0
    own = evaluation.read_json("summary.json")["splits"]["val"]["own"]
    assert own["num"] == 60  # own answers are judged all the same: that is a measurement


def test_the_gate_reads_the_lower_end_of_single_answers(run: Run, make_policy: MakePolicy) -> None:
    """A perfect judge of pairs that says yes to every single answer: macro .75, and the gate stays closed at .5."""
    evaluation, _ = run(make_policy("p", scripted(solves(12), lambda n, a: "y")))
    summary = evaluation.read_json("summary.json")
    assert summary["judge"]["balanced_accuracy"] == 0.75 and summary["judge"]["kinds"]["judge-pair"]["low"] > 0.8
    gate = summary["splits"]["val"]["reflected"]["gate"]
    assert gate["low"] < 0.5 and not gate["open"] and "<= 0.55" in gate["reason"] and gate["gain"] is None


def test_own_verdicts_and_anchors_by_hand(run: Run, make_policy: MakePolicy) -> None:
    """12 of 30 right and accepted, 18 wrong of which those above 26 are accepted too: precision 12/15, recall 1, F1 24/27."""
    lenient = lambda n, a: "y" if a == str(n) or (a == "x" and n > 26) else "n"  # noqa: E731
    evaluation, metrics = run(make_policy("p", scripted(solves(12), lenient)))
    assert metrics["val/own/precision"] == pytest.approx(0.8) and metrics["val/own/recall"] == 1.0
    assert metrics["val/own/f1"] == pytest.approx(24 / 27)
    assert metrics["val/own/balanced_accuracy"] == pytest.approx((1 + 15 / 18) / 2)
    assert metrics["judge/balanced_accuracy"] == metrics["judge/parse_rate"] == 1.0
    assert metrics["val/own/brier"] == pytest.approx(3 / 30)  # scripted tokens have probability 1
    rows = [row for row in evaluation.read() if row.split == "anchor"]
    assert len(rows) == 80 and {row.arm for row in rows} == {"judge-point", "judge-pair"}
    assert {row.score for row in rows} == {1.0} and metrics["num_answers"] == 60


def test_anchors_are_first_units_of_each_kind_and_never_answered(run: Run, make_policy: MakePolicy) -> None:
    config = dataclasses.replace(CONFIG, judge=JudgeConfig(wording="terse", anchors=3), reflect=None)
    evaluation, _ = run(make_policy("p", scripted(solves(12), honest)), config)
    names = [row.task_id for row in evaluation.read() if row.split == "anchor"]
    assert len(names) == 12 and sum(name.startswith("judge-pair/anchor/00002") for name in names) == 2
    assert "reflected" not in evaluation.read_json("summary.json")["splits"]["val"]
    ordinary, _ = run(
        make_policy("q", scripted(solves(12), honest)), dataclasses.replace(CONFIG, judge=None, reflect=None)
    )
    assert {(row.split, row.sample) for row in ordinary.read()} == {("val", -1)}


def test_pools_without_anchors_are_refused(run: Run, make_policy: MakePolicy, tasks: Tasks) -> None:
    with pytest.raises(ContractError, match=r"dataset_prep\.anchors"):
        run(make_policy("p", scripted(solves(12), honest)), pool=tasks)


def worse(number: int, answer: str) -> str:
    """Knows the tasks below 12 alone; says yes to the rest."""
    return honest(number, answer) if number < 12 else "y"


def test_drift_is_an_alarm_and_holds_the_gate(run: Run, make_policy: MakePolicy) -> None:
    """The accuracy rises from .4 to .6 while the judge forgets: not promoted, and the reason is in the decision."""
    old, _ = run(make_policy("old", scripted(solves(12), honest)))
    new, metrics = run(make_policy("new", scripted(solves(18), worse)), baseline=old)
    summaries = [e.read_json("summary.json") for e in (old, new)]
    fell = summaries[1]["judge"]["drift"]
    kinds = summaries[1]["judge"]["kinds"]
    assert fell["difference"] == pytest.approx((kinds["judge-point"]["balanced_accuracy"] - 1.0) / 2)
    assert fell["alarm"] and fell["high"] < 0.0 and metrics["judge/drift_alarm"] == 1.0
    assert [alarm["name"] for alarm in summaries[1]["alarms"]] == ["judge_drift"]
    assert summaries[1]["splits"]["val"]["comparison"]["verdict"] == "better"
    decision = decide(summaries, GateConfig(target=0.5))
    assert (decision.action, decision.promote) == ("hold", False)
    assert "judge on the anchors fell by more than 0.1" in decision.reason
    assert summaries[0]["judge"]["drift"] is None and summaries[0]["alarms"] == []


@pytest.mark.parametrize(("limit", "alarm"), [(0.1, True), (0.5, False)])
def test_a_fall_within_the_limit_is_no_alarm(run: Run, make_policy: MakePolicy, limit: float, alarm: bool) -> None:
    config = dataclasses.replace(CONFIG, judge=JudgeConfig(wording="terse", drift_limit=limit))
    old, _ = run(make_policy("old", scripted(solves(12), honest)), config)
    new, metrics = run(make_policy("new", scripted(solves(12), worse)), config, baseline=old)
    assert new.read_json("summary.json")["judge"]["drift"]["alarm"] is alarm
    assert metrics["judge/drift_alarm"] == float(alarm)


def test_other_anchors_give_no_difference_and_no_alarm(
    run: Run, make_policy: MakePolicy, tasks: Tasks, tmp_path: Path
) -> None:
    old, _ = run(make_policy("old", scripted(solves(12), honest)), pool=with_anchors(tasks, tmp_path / "few", 10))
    new, metrics = run(make_policy("new", scripted(solves(12), worse)), baseline=old)
    fell = new.read_json("summary.json")["judge"]["drift"]
    assert (fell["difference"], fell["alarm"]) == (None, False) and "other anchors" in fell["reason"]
    assert "judge/difference_to_baseline" not in metrics


def test_same_inputs_give_the_same_bytes(run: Run, make_policy: MakePolicy) -> None:
    policy = make_policy("p", scripted(solves(12), worse))
    one, two = run(policy)[0], run(policy)[0]
    for name in ("rows.parquet", "summary.json", "reflections.jsonl"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"judge": None}, "judge"),
        ({"greedy": False, "samples": 1}, "greedy"),
        ({"style": "boxed"}, "style"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluate.{where}"):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("kind", "changes", "where"),
    [
        (ReflectConfig, {"rounds": 0}, "reflect.rounds"),
        (ReflectConfig, {"margin": 0.5}, "reflect.margin"),
        (JudgeConfig, {"anchors": 1}, "judge.anchors"),
        (JudgeConfig, {"drift_limit": -0.1}, "judge.drift_limit"),
        (JudgeConfig, {"confidence": 1.0}, "judge.confidence"),
    ],
)
def test_values_out_of_range_are_refused(kind: Any, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=f"evaluate.{where}"):
        kind(**changes)
