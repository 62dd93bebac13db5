"""From rollouts to score rows, below and through the stage, with a real character tokenizer. Two seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instar import schema
from instar.artifact import Policy, Rollouts, Scores, Tasks
from instar.components.reward.config import VerifyConfig
from instar.components.reward.score import MOST_PARTS, answer_tokens, score_rollouts, summary, summary_by_part
from instar.components.reward.stage import STAGE, Ins, Outs
from instar.components.reward.verifiers import VERSION
from instar.components.task_table import lookup
from instar.contract import Context
from instar.errors import ArtifactError, ConfigError, ContractError, RewardError
from instar.resident import Resident
from instar.rows import RolloutRow, ScoreRow, Step, TaskRow

LINE = VerifyConfig(style="line", format_reward=0.1)


def task(name: str, answer: str | None = "yes", chance: float = 0.0) -> TaskRow:
    return TaskRow(
        task_id=name,
        arm="a",
        domain="d",
        level=1.0,
        split="train",
        prompt="p?",
        verifier="exact",
        reference=json.dumps({"answer": answer, "chance": chance}),
        features="{}",
        content_hash="0" * 64,
        generator="g",
        seed=0,
    )


def codes(text: str) -> list[int]:
    return [ord(c) for c in text]


def decode(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def rollout(number: int, text: str, task_id: str = "t", truncated: bool = False, prompt: str = "p?") -> RolloutRow:
    start, end = len(prompt), len(prompt) + len(text)
    return RolloutRow(
        rollout_id=f"g/{number}",
        task_id=task_id,
        arm="a",
        kind="text",
        group_id="g",
        policy="0" * 64,
        token_ids=codes(prompt + text),
        behaviour_logprobs=[-0.5] * len(text),
        steps=[Step(role="prompt", start=0, end=start), Step(role="action", start=start, end=end)],
        truncated=truncated,
        seed=0,
    )


def test_rewards_by_hand() -> None:
    texts = ["yes", "no", "", "yes\nno"]
    scores = score_rollouts({"t": task("t")}, [rollout(i, t) for i, t in enumerate(texts)], decode, LINE)
    assert [s.correct for s in scores] == [1, 0, 0, 1]
    assert [s.format_ok for s in scores] == [1, 1, 0, 1]
    assert [s.reward for s in scores] == [1.0, 0.1, 0.0, 1.0]
    assert {s.status for s in scores} == {"scored"} and {s.scorer for s in scores} == {f"exact/{VERSION}"}


@given(st.lists(st.sampled_from(["yes", "no", ""]), min_size=1, max_size=12), st.floats(0.0, 0.99))
def test_the_parts_add_up_to_the_reward_and_right_beats_wrong(texts: list[str], paid: float) -> None:
    config = VerifyConfig(style="line", format_reward=paid)
    scores = score_rollouts({"t": task("t")}, [rollout(i, t) for i, t in enumerate(texts)], decode, config)
    for score in scores:
        assert score.reward == score.components["correct"] + score.components["format"]
        assert (score.reward or 0.0) < 1.0 or score.correct == 1.0


def test_only_the_last_action_is_the_answer_and_the_prompt_never_is() -> None:
    first = rollout(0, "yes", prompt="yes")
    two_turns = RolloutRow(
        **{
            **{name: getattr(first, name) for name in RolloutRow.__dataclass_fields__},
            "token_ids": codes("p?yesobsno"),
            "behaviour_logprobs": [-0.5] * 5,
            "steps": [
                Step(role="prompt", start=0, end=2),
                Step(role="action", start=2, end=5),
                Step(role="observation", start=5, end=8),
                Step(role="action", start=8, end=10),
            ],
        }
    )
    assert decode(answer_tokens(two_turns)) == "no"
    assert score_rollouts({"t": task("t")}, [two_turns], decode, LINE)[0].correct == 0.0
    prompt_leak = rollout(1, "", prompt="yes")
    assert score_rollouts({"t": task("t")}, [prompt_leak], decode, LINE)[0].format_ok == 0.0


def test_truncated_rollouts_are_scored_and_counted() -> None:
    rollouts = [rollout(0, "yes", truncated=True), rollout(1, "no")]
    tasks = {"t": task("t", chance=0.25)}
    scores = score_rollouts(tasks, rollouts, decode, LINE)
    metrics = summary(tasks, rollouts, scores)
    assert scores[0].reward == 1.0
    assert metrics == pytest.approx(
        {
            "num_rollouts": 2,
            "failed_share": 0,
            "abstained_share": 0,
            "truncated_share": 0.5,
            "length_mean": 2.5,
            "accuracy": 0.5,
            "format_rate": 1.0,
            "reward_mean": 0.55,
            "chance_mean": 0.25,
        }
    )


def test_abstained_rollouts_have_no_numbers_and_do_not_enter_the_means() -> None:
    tasks = {"t": task("t"), "u": task("u", answer=None)}
    rollouts = [rollout(0, "yes"), rollout(1, "yes", task_id="u")]
    scores = score_rollouts(tasks, rollouts, decode, LINE)
    assert scores[1].status == "abstained" and scores[1].reward is None and scores[1].reason
    metrics = summary(tasks, rollouts, scores)
    assert metrics["accuracy"] == 1.0 and metrics["abstained_share"] == 0.5
    nothing = summary(tasks, rollouts[1:], scores[1:])
    assert "accuracy" not in nothing and nothing["abstained_share"] == 1.0
    schema.to_table(ScoreRow, scores)


@pytest.mark.parametrize("change", [{"format_reward": 1.0}, {"format_reward": -0.1}, {"failed_limit": 1.5}])
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        VerifyConfig(style="line", **change)  # type: ignore[arg-type]


def parts(status: str = "scored", /, **components: float) -> ScoreRow:
    numbers = 1.0 if status == "scored" else None
    return ScoreRow(
        rollout_id="g/0",
        correct=numbers,
        format_ok=numbers,
        reward=numbers,
        components=components,
        status=status,
        reason="",
        scorer="rew.py:reward sha256:0",
    )


def test_parts_of_a_reward_are_means_over_the_scores_that_have_them() -> None:
    rows = [parts(correct=1.0, right=1.0, tidy=0.5), parts(correct=0.0, right=0.0), parts("failed")]
    assert summary_by_part(rows) == {"part/right": 0.5, "part/tidy": 0.5}
    dicts = [parts(**{"correct": 1.0, "tidy": 2.0, "tidy.correct": 1.0, "tidy.reward": 2.0, "tidy.length": 3.0})]
    assert summary_by_part(dicts) == {"part/tidy": 2.0, "part/tidy.length": 3.0}


def test_parts_that_are_named_by_the_row_do_not_become_a_metric_each() -> None:
    many = [parts(**{f"row_{n:03d}": 1.0, f"what is {n}?": 1.0}) for n in range(100)]
    assert list(summary_by_part(many)) == [f"part/row_{n:03d}" for n in range(MOST_PARTS)]


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {"<pad>": 0, "<eos>": 1, **{chr(c): c - 30 for c in range(32, 127)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    folder = tmp_path / "policy"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 0}))
    return Policy(folder, "d" * 64)


def context(tmp_path: Path) -> Context:
    return Context(evolution="e", step=0, stage="reward", scratch=tmp_path)


def run(
    tmp_path: Path, policy: Policy, tasks: list[TaskRow], rollouts: list[RolloutRow]
) -> tuple[list[ScoreRow], dict[str, float]]:
    for name in ("tasks", "rollouts"):
        (tmp_path / name).mkdir()
    pool, tried, scores = (
        Tasks(tmp_path / "tasks", "a" * 64),
        Rollouts(tmp_path / "rollouts"),
        Scores(tmp_path / "scores"),
    )
    pool.write(tasks)
    tried.write(rollouts)
    ins = Ins(tasks=pool, rollouts=tried, policy=policy)
    outs = Outs(scores=scores)
    metrics = STAGE(ins, outs, LINE, context(tmp_path))
    return scores.read(), metrics


def tokens(policy: Policy, number: int, text: str, end: bool = True) -> RolloutRow:
    from instar.components.tokenizer import load_tokenizer

    row = rollout(number, text + ("x" if end else ""))
    ids = load_tokenizer(policy).encode("p?" + text) + ([1] if end else [])
    return RolloutRow(**{**{n: getattr(row, n) for n in RolloutRow.__dataclass_fields__}, "token_ids": ids})


def test_the_stage_decodes_without_special_tokens_and_keeps_the_order(tmp_path: Path, policy: Policy) -> None:
    rollouts = [tokens(policy, 0, "yes"), tokens(policy, 1, "no"), tokens(policy, 2, "yes", end=False)]
    unrelated = [task(f"other/{i}") for i in range(50)]
    scores, metrics = run(tmp_path, policy, [*unrelated, task("t")], rollouts)
    assert [s.rollout_id for s in scores] == ["g/0", "g/1", "g/2"]
    assert [s.reward for s in scores] == [1.0, 0.1, 1.0]
    assert metrics["accuracy"] == pytest.approx(2 / 3) and metrics["num_rollouts"] == 3


def test_the_stage_refuses_rollouts_of_tasks_it_was_not_given(tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(ContractError, match="'t'"):
        run(tmp_path, policy, [task("other")], [tokens(policy, 0, "yes")])


def test_no_rollouts_is_an_error(tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(RewardError, match="found none"):
        run(tmp_path, policy, [task("t")], [])


def test_the_pool_is_read_once_per_process_and_digest(tmp_path: Path) -> None:
    pool, resident = Tasks(tmp_path, "a" * 64), Resident()
    pool.write([task("t"), task("u"), task("v")])
    assert set(lookup({"tasks": pool}, {"t", "u", "gone"}, resident)) == {"t", "u"}
    (tmp_path / "rows.parquet").unlink()
    assert lookup({"tasks": pool}, {"v"}, resident) == {"v": task("v")}
    with pytest.raises(ArtifactError):
        lookup({"tasks": Tasks(tmp_path, "b" * 64)}, {"v"}, resident)


def test_tasks_are_looked_up_in_every_pool_and_an_id_belongs_to_one(tmp_path: Path) -> None:
    names = {"tasks": ["t", "u"], "generated": ["v"], "mutated": ["w"]}
    pools = {port: Tasks(made(tmp_path / port), port) for port in names}
    for port, pool in pools.items():
        pool.write([task(name) for name in names[port]])
    resident = Resident()
    assert set(lookup(pools, {"t", "v", "w", "gone"}, resident)) == {"t", "v", "w"}
    newer = Tasks(made(tmp_path / "newer"), "newer")
    newer.write([task("x"), task("u")])
    with pytest.raises(ContractError, match="'u' in both tasks and mutated"):
        lookup(pools | {"mutated": newer}, {"t"}, resident)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
