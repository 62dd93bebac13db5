"""Plants the ways in which rewards fail quietly elsewhere. One second.

Broken verifiers scored 0, missing, broadcast or invented scores, changed tokens: each has to end in a named
error, never in a number.
"""

from __future__ import annotations

import dataclasses
import json
import math

import pyarrow as pa
import pytest

from instar import schema
from instar.components.reward import verifiers
from instar.components.reward.config import VerifyConfig
from instar.components.reward.score import check_coverage, score_rollouts, summary
from instar.components.reward.verifiers import VERIFIERS, Score, Verdict
from instar.errors import ContractError, RewardError
from instar.rows import RolloutRow, ScoreRow, Step, TaskRow

TASK = TaskRow(
    task_id="t",
    arm="a",
    domain="countdown",
    level=3.0,
    split="train",
    prompt="1,2>3:",
    verifier="countdown",
    reference=json.dumps({"numbers": [1, 2], "target": 3, "answer": "1+2"}),
    features="{}",
    content_hash="0" * 64,
    generator="g",
    seed=0,
)


def decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def rollouts(*texts: str) -> list[RolloutRow]:
    return [
        RolloutRow(
            rollout_id=f"g/{n}",
            task_id="t",
            arm="a",
            kind="text",
            group_id="g",
            policy="0" * 64,
            token_ids=[ord(c) for c in text],
            behaviour_logprobs=[-1.0] * len(text),
            steps=[Step(role="action", start=0, end=len(text))],
            truncated=False,
            seed=0,
        )
        for n, text in enumerate(texts)
    ]


def config(limit: float = 0.5) -> VerifyConfig:
    return VerifyConfig(style="line", failed_limit=limit, format_reward=0.1)


def flaky(answer: str, reference: verifiers.Reference) -> Verdict:
    if answer == "boom":
        raise TimeoutError("the checker did not answer")
    return verifiers.countdown(answer, reference)


def test_a_verifier_that_raises_leaves_the_numbers_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERIFIERS, "countdown", flaky)
    tried = rollouts("1+2", "boom", "2-1")
    scores = score_rollouts({"t": TASK}, tried, decode, config())
    assert [s.status for s in scores] == ["scored", "failed", "scored"]
    assert (scores[1].correct, scores[1].format_ok, scores[1].reward, scores[1].components) == (None, None, None, {})
    assert scores[1].reason == "TimeoutError: the checker did not answer"
    metrics = summary({"t": TASK}, tried, scores)
    assert metrics["accuracy"] == 0.5 and metrics["reward_mean"] == pytest.approx(
        0.55
    )  # not a third: failures are no zeros


def test_too_many_failures_stop_the_stage_and_name_the_commonest_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERIFIERS, "countdown", flaky)
    with pytest.raises(RewardError, match=r"67% of 3; most often \(2x\) TimeoutError"):
        score_rollouts({"t": TASK}, rollouts("boom", "1+2", "boom"), decode, config(0.5))
    score_rollouts({"t": TASK}, rollouts("boom", "1+2"), decode, config(0.5))  # exactly at the limit


def test_a_broken_reference_is_never_a_wrong_answer() -> None:
    broken = dataclasses.replace(TASK, reference='{"numbers": [1, 2]}')
    with pytest.raises(RewardError, match="KeyError"):
        score_rollouts({"t": broken}, rollouts("1+2"), decode, config())


def test_a_nan_verdict_never_becomes_a_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        VERIFIERS, "countdown", lambda answer, reference: Score(correct=math.nan, format_ok=bool(answer and reference))
    )
    with pytest.raises(RewardError, match="correct is nan"):
        score_rollouts({"t": TASK}, rollouts("1+2"), decode, config())


def score(name: str, value: float | None = 1.0) -> ScoreRow:
    status = "scored" if value is not None else "failed"
    return ScoreRow(
        rollout_id=name,
        correct=value,
        format_ok=value,
        reward=value,
        components={},
        status=status,
        reason="",
        scorer="s",
    )


@pytest.mark.parametrize(
    ("scored", "named"),
    [
        (["g/0"], "missing ['g/1']"),
        (["g/0", "g/1", "g/9"], "surplus ['g/9']"),
        (["g/0", "g/0"], "missing ['g/1'], surplus ['g/0']"),
        ([], "missing ['g/0', 'g/1']"),
    ],
    ids=["one missing", "one too many", "one value for two rollouts", "none"],
)
def test_scores_that_do_not_cover_the_rollouts(scored: list[str], named: str) -> None:
    with pytest.raises(RewardError) as caught:
        check_coverage(["g/0", "g/1"], [score(name) for name in scored])
    assert named in caught.value.found


def test_two_rollouts_of_one_name_cannot_both_be_scored() -> None:
    twins = [rollouts("1+2")[0], rollouts("2-1")[0]]
    with pytest.raises(RewardError, match=r"repeated \['g/0'\]"):
        score_rollouts({"t": TASK}, twins, decode, config())


def test_a_nan_reward_cannot_be_written() -> None:
    with pytest.raises(ContractError, match="correct"):
        schema.to_table(ScoreRow, [score("g/0", math.nan)])
    table = schema.to_table(ScoreRow, [score("g/0", None)])
    assert table.column("reward").null_count == 1 and table.column("reward").type == pa.float64()


def test_an_unknown_task_is_an_error_and_not_a_skipped_row() -> None:
    with pytest.raises(ContractError, match="Rollouts:task_id of g/0"):
        score_rollouts({}, rollouts("1+2"), decode, config())


@pytest.mark.parametrize("steps", [[], [Step(role="prompt", start=0, end=3)], [Step(role="action", start=0, end=9)]])
def test_a_rollout_without_a_proper_action_span_is_an_error(steps: list[Step]) -> None:
    with pytest.raises(ContractError, match="Rollouts:steps of g/0"):
        score_rollouts({"t": TASK}, [dataclasses.replace(rollouts("1+2")[0], steps=steps)], decode, config())


def test_scoring_reads_token_ids_and_changes_none() -> None:
    tried = rollouts("1+2")
    before = list(tried[0].token_ids)
    seen: list[list[int]] = []
    score_rollouts({"t": TASK}, tried, lambda ids: (seen.append(ids), decode(ids))[1], config())
    assert tried[0].token_ids == before == seen[0]


@pytest.mark.parametrize(
    ("verifier", "reference", "text"),
    [
        ("number", {"answer": "1/2"}, r"\boxed{.5}"),
        ("number", {"answer": "5"}, r"\boxed{5.}"),
        ("number", {"answer": "-42"}, "\\boxed{\u201342.}"),
        ("number", {"answer": "7"}, r"\boxed{7}, as asked in \boxed{}"),
        ("countdown", {"numbers": [2, 6], "target": 3}, "\\boxed{6\u22152}"),
        ("countdown", {"numbers": [2, 6], "target": 12}, "\\boxed{2\u22176}, \\boxed{2\u22c56}"),
    ],
)
def test_a_right_answer_in_other_signs_is_not_scored_0(verifier: str, reference: dict[str, object], text: str) -> None:
    task = dataclasses.replace(TASK, verifier=verifier, reference=json.dumps(reference))
    (found,) = score_rollouts({"t": task}, rollouts(text), decode, VerifyConfig(style="boxed"))
    assert found.correct == 1.0 and found.format_ok == 1.0
