"""Traps of judging and reflecting at test time (SPARK section 9, traps 9 and 13), planted one by one. About 6 s."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Evaluation, Policy, Tasks
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.judge_config import ReflectConfig
from instar.components.evaluate.reflect import gate
from instar.components.evaluate.stage import STAGE, Ins, Outs
from instar.contract import Context
from instar.pipelines.gate import GateConfig, decide
from unit.evaluate.conftest import context, make_policy, tasks  # noqa: F401
from unit.evaluate.judges import CONFIG, Reply, honest, scripted, with_anchors, with_reflect

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(
    tmp_path: Path,
    tasks: Tasks,  # noqa: F811
    make_policy: Callable[[str, Reply], Policy],  # noqa: F811
    context: Callable[[int], Context],  # noqa: F811
) -> Iterator[Run]:
    pools = with_anchors(tasks, tmp_path / "anchored")
    made: list[Evaluation] = []

    def call(reply: Reply, config: AnswerConfig = CONFIG, against: bool = False) -> dict[str, Any]:
        out = Evaluation(tmp_path / f"evaluation-{len(made)}")
        ins = Ins(tasks=pools, policy=make_policy(f"p{len(made)}", reply), baseline=made[-1] if against else None)
        STAGE(ins, Outs(evaluation=out), config, context(0))
        made.append(out)
        return {**out.read_json("summary.json"), "rows": out.read()}

    yield call


def solve(number: int) -> str:
    """Right on 18 of 30 tasks of every arm: an accuracy of .6."""
    return str(number) if number < 18 else "x"


@pytest.mark.parametrize("letter", ["a", "b"])
def test_trap_9_a_judge_with_a_favourite_position_gains_nothing(run: Run, letter: str) -> None:
    """Asked in the order in which the favourite is right it is perfect; asked in both it is at .5, and the bias is named."""
    found = run(scripted(solve, honest, pair=lambda number, a, b: letter))
    pair = found["judge"]["kinds"]["judge-pair"]
    one_order = [
        r for r in found["rows"] if r.arm == "judge-pair" and r.task_id.endswith("x" if letter == "a" else "y")
    ]
    assert {row.score for row in one_order} == {1.0} and len(one_order) == 20
    assert pair["balanced_accuracy"] == 0.5 and pair["low"] < 0.5 < pair["high"]
    assert pair["bias"] == (1.0 if letter == "a" else -1.0) and pair["consistency"] == 0.0


def test_trap_9_a_judge_that_reads_the_content_has_no_bias(run: Run) -> None:
    """Also one that is always wrong: it names the same answer in both orders, which is not a question of position."""
    good = run(scripted(solve, honest))["judge"]["kinds"]["judge-pair"]
    wrong = run(scripted(solve, honest, pair=lambda n, a, b: "b" if a == str(n) else "a"))["judge"]["kinds"][
        "judge-pair"
    ]
    assert (good["bias"], good["consistency"], good["balanced_accuracy"]) == (0.0, 1.0, 1.0)
    assert (wrong["bias"], wrong["consistency"], wrong["balanced_accuracy"]) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("said", ["n", "q", ""])
def test_trap_13_reflection_with_an_untrained_judge_costs_points_and_the_gate_keeps_them(run: Run, said: str) -> None:
    """It never says Yes, or nothing that can be read. As published every answer is thrown away; behind the gate none is."""
    reply = scripted(solve, lambda n, a: said, fix=lambda n, a: "x" if a != "x" else "0")
    published = run(reply, with_reflect(mode="published"))["splits"]["val"]["reflected"]
    assert published["plain"] == pytest.approx(0.6) and published["score"] <= 1 / 30
    assert published["right_to_wrong"] >= 34 and published["gain"]["high"] < -0.3
    assert published["calls_mean"] == published["calls_max"] == 5
    gated = run(reply, CONFIG)["splits"]["val"]["reflected"]
    assert not gated["gate"]["open"] and gated["gate"]["reason"].startswith("closed")
    assert gated["score"] == gated["plain"] == pytest.approx(0.6) and gated["calls_mean"] == 1.0


@pytest.mark.parametrize(("low", "opens"), [(0.50, False), (0.55, False), (0.551, True)])
def test_trap_13_a_good_estimate_with_a_wide_interval_keeps_the_gate_shut(low: float, opens: bool) -> None:
    """The estimate of a judge that guesses lies above .5 half of the time; its interval does not."""
    quality = {"kinds": {"judge-point": {"balanced_accuracy": 0.7, "low": low, "high": 0.85}}}
    assert gate(quality, ReflectConfig())["open"] is opens
    assert gate(quality, ReflectConfig(mode="published"))["open"]
    assert not gate({"kinds": {"judge-pair": {"balanced_accuracy": 1.0, "low": 1.0, "high": 1.0}}}, ReflectConfig())[
        "open"
    ]


def test_trap_13_an_unreadable_verdict_keeps_the_answer_behind_an_open_gate(run: Run) -> None:
    """The judge knows what the anchors show, and says nothing readable of the policy's own wrong answers."""
    reply = scripted(solve, lambda n, a: "q" if a == "x" else honest(n, a), fix=lambda n, a: "0")
    found = run(reply, with_reflect(least_gain=-1.0))["splits"]["val"]
    assert found["reflected"]["gate"]["open"] and found["reflected"]["score"] == pytest.approx(0.6)
    assert found["reflected"]["ends"] == {"accepted": 36, "no verdict": 24}
    assert found["own"]["parse_rate"] == pytest.approx(0.6)


def test_trap_13_a_judge_better_than_a_coin_whose_rewrites_cost_points_is_not_used(run: Run) -> None:
    """It rejects a quarter of the right answers and has them rewritten wrongly: .85 on the anchors, above the gate of the judge.

    Reflection would cost 10 of 36 right answers and repair none; tried on validation it is found out, and no answer changes.
    """
    doubts = lambda n, a: "n" if n % 4 == 0 else honest(n, a)  # noqa: E731
    reply = scripted(solve, doubts, fix=lambda n, a: "0" if n else "x")
    found = run(reply)
    point, after = found["judge"]["kinds"]["judge-point"], found["splits"]["val"]["reflected"]
    assert point["low"] > 0.55 and after["gate"]["balanced_accuracy"] == point["balanced_accuracy"]
    assert not after["gate"]["open"] and after["gate"]["reason"].startswith("closed: gain -0.167 [")
    assert after["gate"]["gain"]["high"] < 0.0 and after["score"] == after["plain"] == pytest.approx(0.6)
    judged = run(reply, with_reflect(least_gain=-1.0))["splits"]["val"]["reflected"]
    assert judged["score"] == pytest.approx(26 / 60)  # what a gate on the judge alone lets through


def test_trap_13_a_gain_that_luck_could_explain_keeps_the_gate_shut(run: Run) -> None:
    """An honest judge, and rewrites that repair two answers of 60: the interval of the gain holds 0. Twelve are enough."""
    for repaired, opens in ((1, False), (6, True)):
        fix = lambda n, a, most=repaired: str(n) if n >= 30 - most else "0"  # noqa: E731
        after = run(scripted(solve, honest, fix=fix))["splits"]["val"]["reflected"]
        assert after["gate"]["open"] is opens and after["score"] == pytest.approx(0.6 + (repaired / 30 if opens else 0))


def test_trap_13_a_test_split_is_opened_by_validation_and_not_by_itself(run: Run) -> None:
    """The corrector knows the test tasks (arm and number as in validation) alone: what decides is the gain on validation."""
    config = dataclasses.replace(CONFIG, splits=("id",))
    found = run(scripted(solve, honest, fix=lambda n, a: "0"), config)
    after = found["splits"]["id"]["reflected"]
    assert not after["gate"]["open"] and after["gate"]["gain"]["difference"] == 0.0
    assert {row.split for row in found["rows"]} == {"id", "anchor"} and "val" not in found["splits"]
    opened = run(scripted(solve, honest), config)["splits"]["id"]["reflected"]
    assert (
        opened["gate"]["open"] and opened["gate"]["gain"]["difference"] == pytest.approx(0.4) and opened["score"] == 1.0
    )


def test_an_answer_that_cannot_be_read_is_no_case_for_the_judge(run: Run) -> None:
    """10 right, 10 wrong and 10 blank answers per arm: the judge was asked about 40 of 60 and knew all of them."""
    own = run(scripted(lambda n: str(n) if n < 10 else "x" if n < 20 else "", honest))["splits"]["val"]["own"]
    assert (own["num"], own["num_right"], own["balanced_accuracy"], own["parse_rate"]) == (40, 20, 1.0, 1.0)


def test_plain_accuracy_stays_in_sight_when_reflection_lifts_the_reported_one(run: Run) -> None:
    """A policy that lost half of its answers and repairs them at test time is worse, whatever it reports after reflection."""
    before = run(scripted(solve, honest))
    after = run(scripted(lambda n: str(n) if n < 6 else "x", honest), against=True)
    val = after["splits"]["val"]
    assert val["reflected"]["score"] == 1.0 and val["score"] == pytest.approx(0.2)
    assert decide([before, after], GateConfig()).action == "rollback"


def test_self_confirmation_is_seen_on_answers_that_no_policy_wrote(run: Run) -> None:
    """It accepts whatever it wrote and nothing else: F1 and even calibration on its own answers look fine, the anchors do not."""
    before = run(scripted(lambda n: str(n), honest))
    loyal = run(scripted(lambda n: str(n), lambda n, a: "y"), against=True)
    assert loyal["splits"]["val"]["own"]["f1"] == 1.0 and loyal["splits"]["val"]["own"]["brier"] == 0.0
    assert loyal["judge"]["kinds"]["judge-point"]["balanced_accuracy"] == 0.5
    assert [alarm["name"] for alarm in loyal["alarms"]] == ["judge_drift"]
    decision = decide([before, loyal], GateConfig(select="last"))
    assert (decision.action, decision.promote) == ("hold", False) and decision.reason.startswith(
        "alarm: balanced accuracy"
    )


def test_a_fall_that_chance_explains_is_no_alarm(run: Run, tmp_path: Path) -> None:
    """Of two units per kind one question is judged otherwise: .125 less, beyond the limit, in an interval that holds 0."""
    few = dataclasses.replace(CONFIG, judge=dataclasses.replace(CONFIG.judge, anchors=2))  # type: ignore[type-var]
    run(scripted(solve, honest), few)
    first = next(row for row in Tasks(tmp_path / "anchored").read() if row.arm == "judge-point")
    lost = re.fullmatch(r"\w+ (\d+)\?(.*)\?", first.prompt)
    assert lost is not None
    once = [True]  # the other arm may ask the same

    def careless(number: int, answer: str) -> str:
        if (str(number), answer) == lost.groups() and once[0]:
            once[0] = False
            return "n" if honest(number, answer) == "y" else "y"
        return honest(number, answer)

    found = run(scripted(solve, careless), few, against=True)
    drift = found["judge"]["drift"]
    assert drift["difference"] == pytest.approx(-0.125) and drift["low"] < 0.0 <= drift["high"]
    assert not drift["alarm"] and found["alarms"] == []


def test_an_alarm_does_not_stop_what_ends_a_run(run: Run) -> None:
    """A policy far below its champion goes back, alarm or not, and a plateau ends a run under a standing alarm."""
    before = run(scripted(solve, honest))
    after = run(scripted(lambda n: "x", lambda n, a: "y"), against=True)
    decision = decide([before, after], GateConfig())
    assert (decision.action, decision.promote) == ("rollback", False) and "alarm" in decision.reason
    assert decide([before, after], GateConfig(select="last")).action == "hold"
    same = run(scripted(solve, lambda n, a: "y"), dataclasses.replace(CONFIG), against=False)
    held = {**same, "alarms": [{"name": "judge_drift", "reason": "fell"}]}
    assert decide([before, held, held], GateConfig(patience=2)).action == "stop"
    assert not decide([before, held, held], GateConfig(patience=2)).promote


def test_a_judge_below_the_best_of_its_line_is_an_alarm_of_the_evaluation(run: Run, tmp_path: Path) -> None:
    """It judges as the champion does, who had already lost what an earlier champion knew."""
    half = scripted(solve, lambda n, a: "y", pair=lambda n, a, b: "a")
    assert run(half)["alarms"] == [] and run(half, against=True)["alarms"] == []
    path = tmp_path / "evaluation-1" / "summary.json"
    summary = json.loads(path.read_text())
    assert summary["judge"]["peak"] == 0.5
    path.write_text(json.dumps(summary | {"judge": summary["judge"] | {"peak": 0.9}}))
    found = run(half, against=True)
    assert found["judge"]["drift"]["difference"] == 0.0 and found["judge"]["peak"] == 0.9
    assert [alarm["name"] for alarm in found["alarms"]] == ["judge_drift"]


def test_a_judge_that_falls_a_little_with_every_champion_ends_in_an_alarm(tmp_path: Path) -> None:
    """Each fall is inside the limit; together they are not."""
    from instar.artifact import Evaluation
    from instar.components.evaluate.judging import best_so_far

    peak: float | None = None
    alarms = []
    champion = Evaluation(tmp_path)
    for level in (0.95, 0.88, 0.82, 0.76):
        champion.write_json("summary.json", {"judge": {"protocol": "p", "peak": peak}})
        quality = {"protocol": "p", "balanced_accuracy": level, "high": level + 0.04}
        peak, reason = best_so_far(quality, champion, 0.1)
        alarms.append(bool(reason))
    assert alarms == [False, False, True, True] and peak == 0.95
    assert best_so_far({"protocol": "other", "balanced_accuracy": 0.5, "high": 0.5}, champion, 0.1) == (0.5, "")
