"""The cache of generated tasks: what enters and leaves, that it is a function of its inputs, and its stage. Ten seconds."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from instar.artifact import Policy, Rollouts, Scores, Tasks
from instar.components.generated import templates
from instar.components.generated.item import LABELS, origin
from instar.components.generated.rule import Rule
from instar.components.reward.config import RecycleConfig, VerifyConfig
from instar.components.reward.recycle import MEMORY, Cache, age, read_cache, summary_by_kind, write_cache
from instar.components.reward.score import score_rollouts, summary
from instar.components.reward.stage import STAGE, Ins, Outs
from instar.components.reward.verifiers import Score, verify
from instar.config import from_dict, to_dict
from instar.contract import Metrics
from instar.errors import ConfigError, ContractError, LedgerError
from instar.pipelines.recipes.spark import published
from support.attempts import FEW_SHOT, TERSE, WORDS, attempts, context, decode, rollout, simulated, task


def terse(**changes: object) -> VerifyConfig:
    return VerifyConfig(style="line", recycle=RecycleConfig(wording="terse", **changes))  # type: ignore[arg-type]


def test_every_prompt_by_hand() -> None:
    """One mixed group: a pair and a reflection of the wrong answer."""
    rule = Rule(pair_share=1.0, confirm_share=0.0)
    parent = task(7, features="{}")
    made = attempts([(parent, ["12", "21"])], terse(rule=rule))
    cache, metrics = made.recycle(step=3)
    by_kind = {row.arm: row for row in cache.rows}
    pair, reflection = by_kind["judge-pair"], by_kind["reflect-answer"]
    first = origin(pair).label == "first"
    assert pair.prompt == ("217=12|21?" if first else "217=21|12?")
    assert json.loads(pair.reference)["answer"] == ("a" if first else "b")
    assert reflection.prompt == "217=21!" and reflection.reference == parent.reference
    assert {origin(row).parent for row in cache.rows} == {"sort/train/00007"}
    assert {(origin(row).group, origin(row).policy, origin(row).step) for row in cache.rows} == {("g000", "p", 3)}
    assert metrics["recycle_made/judge-pair"] == metrics["recycle_made/reflect-answer"] == 1.0
    assert metrics["recycle_cache_size"] == 2.0 and metrics["recycle_age_max"] == 1.0


@pytest.mark.parametrize("config", [TERSE, FEW_SHOT, WORDS], ids=["terse", "few_shot", "words"])
def test_an_honest_answer_to_every_generated_task_is_right_and_the_opposite_is_wrong(config: VerifyConfig) -> None:
    """The stored label, the wording, the style and the verifier agree: what a reader who knows the truth would write, scores."""
    made = simulated(0.5, 0, config)
    cache, _ = made.recycle()
    assert {row.arm for row in cache.rows} >= {"judge-point", "judge-pair", "reflect-answer"}
    for row in cache.rows:
        about = origin(row)
        labels = templates.family_of(about.wording, about.family).labels
        right = labels[LABELS[about.kind].index(about.label)] if labels else "12"
        wrong = next((name for name in labels if name != right), "21")
        written = [f"\\boxed{{{text}}}" if about.wording == "words" else text for text in (right, wrong)]
        verdicts = [verify(row, text, "tag") for text in written]
        assert [v.correct for v in verdicts if isinstance(v, Score)] == [1.0, 0.0]


def test_the_shown_answers_are_in_the_prompt_and_the_class_is_true() -> None:
    made = simulated(0.5, 1, WORDS)
    cache, _ = made.recycle()
    for row in cache.rows:
        about, parent = origin(row), made.tasks[origin(row).parent]
        assert json.loads(parent.features)["question"] in row.prompt
        if about.kind == "judge-point":
            assert ("12" in row.prompt.replace(json.loads(parent.features)["question"], "")) == (about.label == "right")
        if about.kind == "reflect-trace":
            assert "Let me see. \\boxed{" in row.prompt


def test_recycling_is_a_function_of_its_inputs_and_the_seed() -> None:
    made, old = simulated(0.5, 0), simulated(0.5, 9, first=500).recycle(step=1)[0]
    one, two = (made.recycle(dataclasses.replace(old), step=2) for _ in range(2))
    assert one == two
    assert made.recycle(old, step=2, evolution="another")[0].rows != one[0].rows
    assert made.recycle(old, step=3)[0].rows != one[0].rows


def test_attempted_old_and_surplus_tasks_leave_in_order_of_age() -> None:
    config = terse(max_age=2, max_size=70, rule=Rule(judges=8, reflections=8))
    cache, metrics = Cache(), dict[str, float]()
    for step in range(3):
        cache, metrics = simulated(0.5, step, config, first=100 * step).recycle(cache, step)
    assert [len(cache.rows), metrics["recycle_dropped/too_old"]] == [
        32,
        16,
    ]  # 16 a step: those of step 0 are 3 updates old now
    assert [origin(row).step for row in cache.rows] == [1] * 16 + [2] * 16 and metrics["recycle_age_mean"] == 1.5
    tried = cache.rows[:5]
    step = simulated(0.5, 3, config, first=300)
    for number, row in enumerate(tried):
        step.tasks[row.task_id] = row
        step.rollouts.append(rollout(row, f"d{number}", 0, "y"))
    after, metrics = step.recycle(cache, 3)
    names = [row.task_id for row in after.rows]
    assert not {row.task_id for row in tried} & set(names)
    assert names[:16] == [row.task_id for row in cache.rows if origin(row).step == 2]
    assert metrics["recycle_dropped/attempt_generated"] == 5 and metrics["recycle_dropped/too_old"] == 11
    assert len(set(names)) == len(names)
    full, metrics = simulated(0.5, 4, terse(max_size=10, max_age=0), first=400).recycle(cache, 4)
    assert len(full.rows) == 10 and metrics["recycle_dropped/cache_full"] == 32 + 64 - 10
    assert all(origin(row).step == 4 for row in full.rows)


def test_age_counts_updates_between_writer_and_reader() -> None:
    cache, _ = simulated(0.5, 0).recycle(step=7)
    assert {age(row, 7) for row in cache.rows} == {1} and {age(row, 9) for row in cache.rows} == {3}


def test_repeats_are_left_out_for_a_while_and_come_back() -> None:
    config = terse(remember=3, max_age=1, rule=Rule(pair_share=0.0, reflections=0))
    made = attempts([(task(0), ["12", "12"]), (task(1), ["21", "21"])], config)  # one right and one wrong task, ever
    cache, sizes = Cache(), []
    for step in range(5):
        cache, metrics = made.recycle(cache, step)
        sizes.append(metrics["recycle_made/judge-point"])
    assert sizes == [2, 0, 0, 2, 0]


def test_what_still_waits_is_not_made_again_however_long_it_waits() -> None:
    config = terse(remember=1, max_age=0, rule=Rule(pair_share=0.0, reflections=0))
    made = attempts([(task(0), ["12", "12"]), (task(1), ["21", "21"])], config)  # one right and one wrong task, ever
    cache = Cache()
    for step in range(5):
        cache, _ = made.recycle(cache, step)
        assert [origin(row).step for row in cache.rows] == [0, 0]


@pytest.mark.parametrize("rate", [0.2, 0.45, 0.85])
def test_many_groups_at_few_tasks_stay_balanced(rate: float) -> None:
    """48 groups at 12 tasks: all right answers to a task are the same, so what repeats in a step is mostly of one class."""
    labels: Counter[str] = Counter()
    for seed in range(20):
        step = simulated(rate, seed, terse(), num=48)
        rows = [dataclasses.replace(r, task_id=f"arm0/train/{int(r.task_id[-5:]) % 12:05d}") for r in step.rollouts]
        step.rollouts = [dataclasses.replace(r, rollout_id=f"{r.group_id}/{i}") for i, r in enumerate(rows)]
        cache, metrics = step.recycle(step=seed)
        labels.update(f"{row.arm[:5]} {origin(row).label}" for row in cache.rows if row.arm != "judge-pair")
        assert "recycle_dropped/duplicate" not in metrics and len({origin(r).key for r in cache.rows}) == len(
            cache.rows
        )
    assert labels["judge right"] == labels["judge wrong"] > 20
    kept = labels["refle right"] / (labels["refle right"] + labels["refle wrong"])
    assert kept == pytest.approx(0.25, abs=0.02)


def test_totals_and_memory_survive_the_file(tmp_path: Path) -> None:
    cache, _ = simulated(0.5, 0).recycle(step=2)
    kept = Tasks(tmp_path)
    write_cache(kept, cache)
    assert read_cache(kept, context(3)) == cache
    assert sum(cache.totals.values()) == len(cache.rows) and set(cache.totals) == set(templates.KINDS)
    after, _ = simulated(0.5, 1, first=100).recycle(cache, 3)
    assert sum(after.totals.values()) == len(after.rows)


def test_a_lost_cache_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    assert read_cache(None, context(0)) == Cache()
    with pytest.raises(LedgerError, match="the generated tasks of the step before step 4"):
        read_cache(None, context(4))
    kept = Tasks(tmp_path)
    write_cache(kept, simulated(0.5, 0).recycle()[0])
    kept.write_json(MEMORY, {"templates": 0, "recent": {}, "totals": {}})
    with pytest.raises(LedgerError, match="templates of version"):
        read_cache(kept, context(1))
    (tmp_path / MEMORY).unlink()
    with pytest.raises(LedgerError, match="rows without that file"):
        read_cache(kept, context(1))


def test_long_prompts_are_counted_and_not_made() -> None:
    cache, metrics = attempts([(task(0), ["1" * 50, "2" * 50])], terse(max_chars=20)).recycle()
    assert cache.rows == [] and metrics["recycle_dropped/too_long"] == 1  # one class alone makes no judge task
    assert "recycle_p_right" not in metrics and "recycle_age_max" not in metrics


def test_tasks_without_a_bare_question_are_an_error_in_words() -> None:
    made = attempts([(task(0, features="{}"), ["\\boxed{12}", "\\boxed{1}"])], WORDS)
    with pytest.raises(ContractError, match="bare question"):
        made.recycle()


def test_means_are_those_of_ordinary_tasks_and_kinds_have_their_own() -> None:
    cache, _ = simulated(0.5, 0).recycle()
    row = next(r for r in cache.rows if r.arm == "judge-point")
    step = attempts([(task(0), ["12", "21", "12", "12"])])
    step.tasks[row.task_id] = row
    step.rollouts += [rollout(row, "d", i, text) for i, text in enumerate(["y", "n", "?", ""])]
    found = summary(step.tasks, step.rollouts, step.scores)
    assert found["accuracy"] == 0.75 and found["num_rollouts"] == 8
    kinds = summary_by_kind(step.tasks, step.rollouts, step.scores)
    share = 0.25  # "y" or "n" is right, "?" and nothing are no verdict
    label = origin(row).label
    assert kinds == {
        "judge-point/accuracy": share,
        "judge-point/format_rate": 0.5,
        f"judge-point/accuracy_{label}": share,
    }
    assert score_rollouts(step.tasks, step.rollouts, decode, TERSE)[-1].format_ok == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"max_age": -1},
        {"max_size": -1},
        {"max_chars": 0},
        {"remember": -1},
        {"rule": Rule(pair_share=1.5)},
        {"rule": Rule(confirm_share=1.0)},
        {"rule": Rule(judges=-1)},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"reward\.recycle"):
        RecycleConfig(**change)  # type: ignore[arg-type]


def test_the_settings_pass_through_json() -> None:
    for config in (TERSE, FEW_SHOT, WORDS, VerifyConfig(recycle=published()), VerifyConfig()):
        assert from_dict(VerifyConfig, to_dict(config)) == config
    assert published().rule.balance == "none"


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    from instar.components.dataset_prep.charlm import CharModelConfig, build_tokenizer

    folder = tmp_path / "policy"
    build_tokenizer(CharModelConfig(alphabet="0123456789=?|!ynab")).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1, "pad_token_id": 0}))
    return Policy(folder, "d" * 64)


def through_stage(
    folder: Path, policy: Policy, generated: Tasks | None, step: int, config: VerifyConfig
) -> tuple[Tasks, Metrics]:
    """Run the stage over simulated attempts and the first three generated tasks, with a real tokenizer."""
    from instar.components.tokenizer import load_tokenizer

    tokenizer, made = load_tokenizer(policy), simulated(0.5, step, config, num=16, first=100 * step)
    waiting = generated.read()[:3] if generated is not None else []
    made.rollouts += [rollout(row, f"{step}-d{i}", 0, "y") for i, row in enumerate(waiting)]
    rows = []
    for row in made.rollouts:
        prompt, text = decode(row.token_ids[: row.steps[0].end]), decode(row.token_ids[row.steps[0].end :])
        assert tokenizer.decode(tokenizer.encode(prompt + text)) == prompt + text
        rows.append(dataclasses.replace(row, token_ids=tokenizer.encode(prompt + text)))
    (folder / "tasks").mkdir(parents=True)
    (folder / "rollouts").mkdir()
    pool, tried = Tasks(folder / "tasks"), Rollouts(folder / "rollouts")
    pool.write(made.tasks.values())
    tried.write(rows)
    outs = Outs(scores=Scores(folder / "scores"), generated=Tasks(folder / "generated"))
    ins = Ins(tasks=pool, rollouts=tried, policy=policy, generated=generated)
    metrics = STAGE(ins, outs, config, context(step))
    assert outs.generated is not None
    return outs.generated, metrics


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_stage_carries_the_cache_byte_for_byte(tmp_path: Path, policy: Policy) -> None:
    """Three steps in a row, and the third again from the files of the second: equal bytes, so a restart changes nothing."""
    held: Tasks | None = None
    generated: Tasks | None = None
    metrics: Metrics = {}
    for step in range(3):
        held, (generated, metrics) = generated, through_stage(tmp_path / f"{step}", policy, generated, step, TERSE)
    assert held is not None and generated is not None
    again, same = through_stage(tmp_path / "again", policy, Tasks(held.path), 2, TERSE)
    assert contents(generated.path) == contents(again.path) and metrics == same
    assert set(contents(generated.path)) == {"rows.parquet", MEMORY}
    tried = {row.task_id for row in held.read()[:3]}
    names = [row.task_id for row in generated.read()]
    assert not tried & set(names) and names[: len(held.read()) - 3] == [r.task_id for r in held.read()[3:]]
    assert {f"{row.arm}/accuracy" for row in held.read()[:3]} <= set(metrics)


def test_without_recycling_there_is_no_table(tmp_path: Path, policy: Policy) -> None:
    config = VerifyConfig(style="line")
    generated, metrics = through_stage(tmp_path / "0", policy, None, 0, config)
    assert not list(generated.path.iterdir()) and not any("recycle" in name for name in metrics)
    assert (config.writes, TERSE.writes) == ((), ("generated",))
