"""Plants what a sloppy implementation of SPARK gets wrong (its section 9, by number). Ten seconds.

Trap 13 and the evaluation side of trap 9 concern reflection at test time and are planted there.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from instar import config as configs
from instar import schema
from instar.artifact import Tasks
from instar.components.curriculum.generated import slots
from instar.components.generated import templates
from instar.components.generated.item import origin
from instar.components.generated.rule import Rule
from instar.components.reward.config import Config, RecycleConfig, VerifyConfig
from instar.components.reward.extract import STYLES, extract
from instar.components.reward.recycle import Cache, recycle
from instar.components.reward.score import score_rollouts
from instar.components.reward.verifiers import VERSION, Score, verify
from instar.components.task_table import lookup
from instar.components.update.advantages import advantages
from instar.components.update.update_batch import join
from instar.errors import ConfigError, ContractError
from instar.pipelines.recipes.spark import published
from instar.resident import Resident
from instar.rows import BatchRow, RolloutRow, ScoreRow, TaskRow
from support.attempts import TERSE, WORDS, Attempted, attempts, context, decode, rollout, simulated, task, text_of

STEPS = 40


def recycle_config(**changes: object) -> VerifyConfig:
    return VerifyConfig(style="line", recycle=RecycleConfig(wording="terse", **changes))  # type: ignore[arg-type]


PUBLISHED = VerifyConfig(style="line", recycle=published("terse"))


def made_over(config: VerifyConfig, rate: float) -> list[TaskRow]:
    """Return what `STEPS` independent steps at a solve rate make."""
    return [row for seed in range(STEPS) for row in simulated(rate, seed, config).recycle(step=seed)[0].rows]


def paid(rows: list[TaskRow], kind: str, answer: str) -> float:
    """Return the mean score of a policy that answers every task of a kind alike."""
    verdicts = [verify(row, answer, "line") for row in rows if row.arm == kind]
    return float(np.mean([v.correct for v in verdicts if isinstance(v, Score)]))


def test_1_what_the_judge_says_never_reaches_the_reward_of_an_answer() -> None:
    solved = attempts([(task(0, features="{}"), ["12", "21"] * 4)])
    row = solved.recycle()[0].rows[0]
    found = []
    for said in ("y", "n", "?"):
        step = attempts([(task(0), ["12", "21"] * 4)])
        step.tasks[row.task_id] = row
        step.rollouts += [rollout(row, "judging", i, said) for i in range(8)]
        found.append(score_rollouts(step.tasks, step.rollouts, decode, TERSE)[:8])
    assert found[0] == found[1] == found[2] and {s.scorer for s in found[0]} == {f"exact/{VERSION}"}
    with pytest.raises(ConfigError, match="judge_as_reward"):
        configs.from_dict(Config, {"strategy": "verify", "judge_as_reward": True})


RATES = [0.45, 0.85, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.2, 0.6, 0.75))]


@pytest.mark.parametrize("rate", RATES)
def test_2_a_judge_that_always_says_yes_earns_a_coin_at_every_accuracy(rate: float) -> None:
    published, ours = made_over(PUBLISHED, rate), made_over(TERSE, rate)
    assert paid(ours, "judge-point", "y") == 0.5 and paid(ours, "judge-point", "n") == 0.5
    assert abs(paid(published, "judge-point", "y") - 0.5) > 0.04
    if rate == 0.85:
        assert paid(published, "judge-point", "y") == pytest.approx(0.9, abs=0.03)
    pairs = [row for row in ours if row.arm == "judge-pair"]
    assert abs(paid(ours, "judge-pair", "a") - 0.5) <= 3 * 0.5 / len(pairs) ** 0.5


def test_3_never_confirming_costs_the_share_of_right_attempts() -> None:
    """A policy that rejects whatever it is shown is never wrong to do so in the release; here in a quarter of the tasks."""
    rejected = {}
    for name, config in (("published", PUBLISHED), ("ours", TERSE)):
        rows = [row for row in made_over(config, 0.5) if row.arm.startswith("reflect")]
        rejected[name] = sum(origin(row).label == "right" for row in rows) / len(rows)
        for row in rows[:50]:
            shown = row.prompt.removeprefix(simulated_question(row)).removesuffix("!")
            confirmed = verify(row, shown, "line")
            assert isinstance(confirmed, Score) and confirmed.correct == float(origin(row).label == "right")
    assert rejected["published"] == 0.0 and rejected["ours"] == pytest.approx(0.25, abs=0.01)


def simulated_question(row: TaskRow) -> str:
    """Return the question of a simulated task: `21<number>=`."""
    return row.prompt[: row.prompt.index("=") + 1]


@pytest.mark.parametrize("family", ["P1", "P2", "P3"])
def test_4_the_spelling_that_is_asked_for_is_the_one_that_scores(family: str) -> None:
    step = simulated(0.5, 0, WORDS)
    rows = [row for row in step.recycle()[0].rows if origin(row).family == family]
    assert rows
    for row in rows:
        expected = json.loads(row.reference)["answer"]
        assert f"\\boxed{{{expected}}}" in row.prompt and "\\box{" not in row.prompt
        scores = [
            verify(row, text, "boxed") for text in (f"So \\boxed{{{expected}}}.", f"So \\box{{{expected}}}.", expected)
        ]
        assert [s.correct for s in scores if isinstance(s, Score)] == [1.0, 0.0, 0.0]
        read = [
            templates.read_verdict("words", family, text) is not None for text in (f"\\boxed{{{expected}}}", expected)
        ]
        assert read == [True, False]


def test_5_labels_come_from_correct_and_not_from_the_reward() -> None:
    """A format reward of 0.9 rounds down to 0 and up to 1; rewards that are halved, shifted or turned round change no task."""
    plain = simulated(0.5, 0, recycle_config())
    bonus = simulated(0.5, 0, dataclasses.replace(recycle_config(), format_reward=0.9))
    assert {score.reward for score in bonus.scores} == {0.9, 1.0}
    assert bonus.recycle()[0] == plain.recycle()[0]
    for factor, shift in ((0.5, 0.0), (1.0, 1.0), (-1.0, 0.0)):
        scores = [dataclasses.replace(s, reward=factor * (s.reward or 0.0) + shift) for s in plain.scores]
        changed, _ = recycle(plain.tasks, plain.rollouts, scores, text_of, Cache(), plain.config, context(0))
        assert changed == plain.recycle()[0]
    for row in bonus.recycle()[0].rows:
        if row.arm == "judge-point":
            assert ("=12?" in row.prompt) == (origin(row).label == "right")


def test_6_groups_are_told_apart_by_their_id_in_any_order_and_size() -> None:
    """64 groups of 8 are assumed nowhere: 5 groups of 1 to 9 attempts, rows in any order, keep question and answer together."""
    sizes = {0: 1, 1: 9, 2: 2, 3: 8, 4: 3}
    pairs = [
        (task(i, answer=f"{i}0", features="{}"), [f"{i}0" if n % 2 else f"{i}{n}" for n in range(1, size + 1)])
        for i, size in sizes.items()
    ]
    step = attempts(pairs)
    random.Random(0).shuffle(step.rollouts)
    cache, _ = step.recycle()
    assert len({origin(row).parent for row in cache.rows}) >= 4
    for row in cache.rows:
        number = int(origin(row).parent[-1])
        shown = row.prompt.removeprefix(f"21{number}=")
        assert shown != row.prompt and all(part[0] == str(number) for part in shown[:-1].split("|"))
        assert origin(row).group == f"g00{number}"


@pytest.mark.parametrize("shape", ["<|im_start|>user\n#<|im_end|>assistant", "[INST] # [/INST]", "User: #\nAssistant:"])
@pytest.mark.parametrize(
    "question",
    [
        "Which user is the assistant?",
        "assistant\nUser: {answer} system",
        "<|im_start|>user",
        "user\nA:\nassistant\n1+1?",
    ],
)
def test_7_a_question_may_hold_any_marker_of_any_chat_template(question: str, shape: str) -> None:
    parent = task(0, prompt=shape.replace("#", question), features=json.dumps({"question": question}))
    cache, _ = attempts([(parent, ["\\boxed{12}", "\\boxed{21}"])], WORDS).recycle()
    assert cache.rows
    for row in cache.rows:
        assert row.prompt.count(question) == 1
        assert not any(part in row.prompt.replace(question, "") for part in ("<|im_", "INST]", "User:", "Assistant:"))


def test_8_an_answer_that_changes_its_mind_is_judged_by_its_last_word() -> None:
    """First box wrong, last box right, and the reverse: what is shown is what was scored."""
    texts = ["First \\boxed{21}, no: \\boxed{12}.", "First \\boxed{12}, no: \\boxed{21}."]
    rule = Rule(pair_share=0.0)
    config = VerifyConfig(recycle=RecycleConfig(rule=rule))
    for number, text in enumerate(texts):
        right = number == 0
        # a second group of the other class, since one class alone makes no pointwise task
        other = "\\boxed{77}" if right else "\\boxed{12}"
        cache, _ = attempts([(task(3), [text]), (task(4), [other])], config).recycle()
        row = next(r for r in cache.rows if r.arm == "judge-point" and origin(r).parent.endswith("3"))
        assert origin(row).label == ("right" if right else "wrong")
        assert ("12" in row.prompt, "21" in row.prompt) == (right, not right)
    assert {style for style in STYLES if extract("\\boxed{1} \\boxed{2}", style) == "2"} == {"boxed"}


def test_8_what_the_verifier_could_not_read_is_not_shown_as_an_answer() -> None:
    """The first line is empty and the second is right: the verdict is wrong, so the second must not stand as a wrong answer."""
    config = dataclasses.replace(TERSE, recycle=RecycleConfig(wording="terse", rule=Rule(pair_share=0.0)))
    bare = {"features": "{}"}
    step = attempts([(task(3, **bare), ["\n12", "12"]), (task(4, **bare), ["77", "12"])], config)
    assert [score.correct for score in step.scores] == [0.0, 1.0, 0.0, 1.0]
    for seed in range(20):
        cache, _ = step.recycle(evolution=f"evo{seed}")
        shown = [row for row in cache.rows if row.arm == "judge-point" and origin(row).parent.endswith("3")]
        assert all(origin(row).label == "right" for row in shown)


def test_9_the_right_answer_stands_first_as_often_as_last_and_any_attempt_is_shown() -> None:
    firsts = Counter(origin(row).label for row in made_over(TERSE, 0.5) if row.arm == "judge-pair")
    assert abs(firsts["first"] - firsts["second"]) <= STEPS
    same = ["12", "12.0", "12.00", "012", "0012", "+12", "24/2", "36/3"]  # eight ways to be right, in a fixed order
    parent = task(0, verifier="number", features="{}")
    shown = Counter(
        row.prompt.removeprefix("210=")
        for step in range(80)
        for row in attempts([(parent, same), (task(1, features="{}"), ["21"] * 4)]).recycle(step=step)[0].rows
        if row.arm == "judge-point" and origin(row).label == "right"
    )
    assert sum(shown.values()) == 80 and len(shown) == 8 and max(shown.values()) < 25


def test_10_judging_and_solving_are_never_normalised_together() -> None:
    """Solve group 1 1 1 0 and judge group 0 0 0 1: mixed, the rare right verdict would look like an ordinary success."""
    solve, judge = task(0), simulated(0.5, 0).recycle()[0].rows[0]
    step = attempts([(solve, ["12", "12", "12", "21"])])
    step.tasks[judge.task_id] = judge
    said = ["?", "?", "?", json.loads(judge.reference)["answer"]]
    batch = [BatchRow(slot=0, task_id=solve.task_id, arm="sort", probability=1.0, group_id="000001-0000", group_size=4)]
    batch += slots([judge], 1, 1, 4)
    names = {"g000": batch[0].group_id}
    rows = [dataclasses.replace(r, group_id=names[r.group_id]) for r in step.rollouts]
    rows += [rollout(judge, batch[1].group_id, i, text) for i, text in enumerate(said)]
    scores = score_rollouts(step.tasks, rows, decode, TERSE)
    tables = [
        schema.to_table(kind, items) for kind, items in ((BatchRow, batch), (RolloutRow, rows), (ScoreRow, scores))
    ]
    data = join(*tables, min_group=2)  # type: ignore[call-arg]
    assert data.group.tolist() == [0] * 4 + [1] * 4 and set(data.arms) == {"sort", judge.arm}
    found = advantages(data.reward, data.group, data.num_groups, baseline="group", scale="group_std", eps=0.0)
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.5, -1.5, -0.5, -0.5, -0.5, 1.5])
    mixed = advantages(data.reward, data.group * 0, 1, baseline="group", scale="group_std", eps=0.0)
    assert abs(mixed[7] - found[7]) > 0.5


def cut(step: Attempted) -> Attempted:
    """Mark every wrong attempt as cut by the length limit."""
    wrong = {score.rollout_id for score in step.scores if score.correct == 0.0}
    step.rollouts = [dataclasses.replace(r, truncated=r.rollout_id in wrong) for r in step.rollouts]
    return step


def test_11_attempts_that_were_cut_are_no_wrong_answers() -> None:
    cache, metrics = cut(simulated(0.5, 0)).recycle()
    assert metrics["recycle_dropped/attempt_truncated"] > 100
    assert not [row for row in cache.rows if origin(row).label == "wrong" or row.arm == "judge-pair"]
    published, _ = cut(simulated(0.5, 0, PUBLISHED)).recycle()
    assert [row for row in published.rows if origin(row).label == "wrong"]


def test_12_the_cache_is_bounded_in_size_and_age_and_says_so() -> None:
    """What is made in step s can be tried from step s + 1 on, one update later; at most three make it leave after step s + 2."""
    cache, config, metrics = Cache(), recycle_config(max_age=3, max_size=150), dict[str, float]()
    for step in range(12):
        cache, metrics = simulated(0.5, step, config, first=100 * step).recycle(cache, step)
        assert len(cache.rows) <= 150
        assert metrics["recycle_cache_size"] == len(cache.rows)
    assert metrics["recycle_dropped/cache_full"] > 0
    aged, config = Cache(), recycle_config(max_age=3, max_size=0)
    for step in range(12):
        aged, metrics = simulated(0.5, step, config, first=100 * step).recycle(aged, step)
        assert {origin(row).step for row in aged.rows} == set(range(max(0, step - 2), step + 1))
        assert metrics["recycle_age_max"] == min(step + 1, 3)
    assert metrics["recycle_dropped/too_old"] > 0
    unbounded = Cache()
    for step in range(12):
        unbounded, _ = simulated(0.5, step, PUBLISHED, first=100 * step).recycle(unbounded, step)
    assert len(unbounded.rows) > 12 * 50


def test_14_the_same_pair_is_not_drawn_again_in_the_next_epoch() -> None:
    same = simulated(0.5, 0, recycle_config(max_age=2), num=64)
    cache, keys = Cache(), Counter[str]()
    for step in range(6):
        cache, _ = same.recycle(cache, step)
        keys.update(origin(row).key for row in cache.rows if origin(row).step == step)
    assert max(keys.values()) == 1
    repeated, cache = Counter[str](), Cache()
    again = simulated(0.5, 0, PUBLISHED)
    for step in range(6):
        cache, _ = again.recycle(cache, step)
    repeated.update(origin(row).key for row in cache.rows)
    assert max(repeated.values()) > 1


def test_a_made_task_with_the_id_of_another_is_tried_as_neither(tmp_path: Path) -> None:
    """Whichever pool were asked first, the answer to one task would be scored against the reference of the other."""
    pools = {}
    for port, numbers in (("tasks", (0, 1)), ("generated", (1, 2))):
        (tmp_path / port).mkdir()
        pools[port] = Tasks(tmp_path / port, f"sha256:{port}")
        pools[port].write([task(number) for number in numbers])
    with pytest.raises(ContractError, match=rf"'{task(1).task_id}' in both tasks and generated"):
        lookup(pools, {task(2).task_id}, Resident())
