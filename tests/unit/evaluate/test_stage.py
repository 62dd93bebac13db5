"""The evaluation stage with policies whose accuracy is known, and once with a real tiny model. About 8 s."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from instar.artifact import Evaluation, Policy, Tasks
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.stage import STAGE, Ins, Outs
from instar.contract import Context
from instar.errors import ContractError, RewardError
from instar.pipelines.gate import GateConfig, decide
from instar.rows import EvalRow, TaskRow

MakePolicy = Callable[..., Policy]
MakeContext = Callable[[int], Context]
CONFIG = AnswerConfig(max_new_tokens=4, samples=1, greedy=True, style="line")


def right(prompt: str) -> str:
    return prompt.removesuffix("?").split()[1]


def knows(share: float) -> Callable[[str, int, float], str]:
    """Right on the first `share` of each arm's tasks, wrong (task 29: cut) on the others; greedy is always right."""

    def reply(prompt: str, seed: int, temperature: float) -> str:
        del seed
        if temperature == 0.0 or int(right(prompt)) < round(30 * share):
            return right(prompt)
        return "" if right(prompt) == "29" else "x"

    return reply


@pytest.fixture
def run(tmp_path: Path, tasks: Tasks, context: MakeContext) -> Callable[..., tuple[Evaluation, dict[str, float]]]:
    def call(
        policy: Policy,
        step: int = 0,
        baseline: Evaluation | None = None,
        config: AnswerConfig = CONFIG,
        pool: Tasks = tasks,
    ) -> tuple[Evaluation, dict[str, float]]:
        out = Evaluation(tmp_path / f"evaluation-{policy.digest}-{step}-{len(list(tmp_path.iterdir()))}")
        metrics = STAGE(Ins(tasks=pool, policy=policy, baseline=baseline), Outs(evaluation=out), config, context(step))
        return out, metrics

    return call


Run = Callable[..., tuple[Evaluation, dict[str, float]]]


def test_accuracy_is_the_known_one(run: Run, make_policy: MakePolicy) -> None:
    evaluation, metrics = run(make_policy("p", knows(0.6)))
    rows, summary = evaluation.read(), evaluation.read_json("summary.json")
    assert len(rows) == 3 * 2 * 30 * 2 == metrics["num_answers"]
    assert {row.split for row in rows} == {"val", "id", "ood"}
    for split in ("val", "id", "ood"):
        assert metrics[f"{split}/accuracy"] == metrics[f"{split}/easy/accuracy"] == pytest.approx(0.6)
        assert metrics[f"{split}/greedy_accuracy"] == 1.0
        assert summary["splits"][split]["comparison"] is None
    cut = [row for row in rows if row.truncated]
    assert len(cut) == 6 and all(row.answer == "" and row.score == 0.0 and row.length == 0 for row in cut)
    assert summary["policy"] == "p"


def test_greedy_alone(run: Run, make_policy: MakePolicy) -> None:
    evaluation, metrics = run(make_policy("p", knows(0.1)), config=dataclasses.replace(CONFIG, samples=0))
    assert metrics["val/accuracy"] == 1.0
    assert {row.sample for row in evaluation.read()} == {-1}


def test_same_policy_at_a_later_step_answers_the_same(run: Run, make_policy: MakePolicy) -> None:
    """Seeds do not depend on the step, so a policy that did not change differs from itself by exactly 0."""
    policy = make_policy("p", lambda prompt, seed, temperature: right(prompt) if seed % 2 else "x")
    first, _ = run(policy, 0)
    second, metrics = run(policy, 7, first)
    assert second.read() == first.read()
    comparison = second.read_json("summary.json")["splits"]["val"]["comparison"]
    assert (comparison["verdict"], comparison["difference"], comparison["reason"]) == ("equal", 0.0, "the same policy")
    assert metrics["val/difference_to_baseline"] == 0.0
    assert 0.3 < metrics["val/accuracy"] < 0.7


@pytest.mark.parametrize(
    ("before", "after", "verdict", "action"), [(0.3, 0.7, "better", "continue"), (0.7, 0.3, "worse", "rollback")]
)
def test_comparison_reaches_the_gate(
    run: Run, make_policy: MakePolicy, before: float, after: float, verdict: str, action: str
) -> None:
    old, _ = run(make_policy("old", knows(before)))
    new, _ = run(make_policy("new", knows(after)), 1, old)
    summaries = [e.read_json("summary.json") for e in (old, new)]
    comparison = summaries[1]["splits"]["val"]["comparison"]
    assert comparison["verdict"] == verdict and comparison["num_tasks"] == 60
    assert comparison["difference"] == pytest.approx(after - before)
    decision = decide(summaries, GateConfig())
    assert (decision.action, decision.promote) == (action, verdict == "better")


def test_answers_under_another_protocol_are_not_compared(run: Run, make_policy: MakePolicy) -> None:
    old, _ = run(make_policy("old", knows(0.2)))
    new, metrics = run(make_policy("new", knows(0.9)), 1, old, dataclasses.replace(CONFIG, temperature=0.7))
    comparison = new.read_json("summary.json")["splits"]["val"]["comparison"]
    assert comparison["verdict"] == "unknown" and "temperature" in comparison["reason"]
    assert "val/difference_to_baseline" not in metrics


def test_tasks_of_the_same_name_and_other_content_are_not_compared(
    run: Run, make_policy: MakePolicy, tasks: Tasks, tmp_path: Path
) -> None:
    old, _ = run(make_policy("old", knows(0.2)))
    (tmp_path / "other").mkdir()
    other = Tasks(tmp_path / "other", "sha256:other")
    other.write(dataclasses.replace(row, content_hash=row.content_hash.replace("0", "1")) for row in tasks.read())
    new, _ = run(make_policy("new", knows(0.9)), 1, old, pool=other)
    assert new.read_json("summary.json")["splits"]["val"]["comparison"]["verdict"] == "unknown"


def test_tasks_per_arm_takes_the_first_of_each_arm_and_split(run: Run, make_policy: MakePolicy) -> None:
    config = dataclasses.replace(CONFIG, tasks_per_arm=3, splits=("val", "ood"), greedy=False, samples=2)
    evaluation, _ = run(make_policy("p", knows(0.5)), config=config)
    expected = [(f"{a}/{s}/{i}", n) for s in ("val", "ood") for a in ("easy", "hard") for i in range(3) for n in (0, 1)]
    assert [(row.task_id, row.sample) for row in evaluation.read()] == expected


def test_split_without_tasks_is_refused(run: Run, make_policy: MakePolicy, tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    small = Tasks(tmp_path / "small")
    small.write(row for row in tasks.read() if row.split != "ood")
    with pytest.raises(ContractError, match="ood"):
        run(make_policy("p", knows(0.5)), pool=small)


def test_broken_references_stop_the_stage(run: Run, make_policy: MakePolicy, tasks: Tasks, tmp_path: Path) -> None:
    """One task of ten has a reference the verifier cannot read: tolerated and counted; one of three is an error."""

    def broken(every: int) -> Tasks:
        (tmp_path / f"broken{every}").mkdir()
        pool = Tasks(tmp_path / f"broken{every}")
        bad: list[TaskRow] = [
            dataclasses.replace(row, reference="{}") if row.seed % every == 0 else row for row in tasks.read()
        ]
        pool.write(bad)
        return pool

    evaluation, metrics = run(make_policy("p", knows(1.0)), pool=broken(10))
    assert metrics["num_failed"] == 3 * 2 * 3 * 2
    assert metrics["val/accuracy"] == 1.0
    assert sum(row.score is None for row in evaluation.read()) == 36
    with pytest.raises(RewardError, match="failed verdicts"):
        run(make_policy("q", knows(1.0)), pool=broken(3))


def test_same_inputs_give_the_same_bytes(run: Run, make_policy: MakePolicy) -> None:
    policy = make_policy("p", knows(0.6))
    one, two = run(policy)[0], run(policy)[0]
    assert one.path != two.path
    for name in ("rows.parquet", "summary.json"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


def test_real_model_answers(run: Run, make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch, tasks: Tasks) -> None:
    """A random tiny Llama through the real engine; greedy answers are those of a plain forward pass."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from instar.components.rollout import engines
    from instar.components.tokenizer import load_tokenizer

    policy = make_policy("sha256:real", knows(1.0))
    monkeypatch.undo()
    ids = {"bos_token_id": None, "eos_token_id": 41, "pad_token_id": None}
    shape = {"vocab_size": 42, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, **ids))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(policy.path)
    config = dataclasses.replace(CONFIG, splits=("val",), tasks_per_arm=4, samples=2)
    evaluation, _ = run(policy, config=config)
    rows = evaluation.read()
    assert len(rows) == 8 * 3 and engines.ENGINES["transformers"].__module__ == engines.__name__
    tokenizer, prompts = load_tokenizer(policy), {row.task_id: row.prompt for row in tasks.read()}
    for row in (r for r in rows if r.sample == -1):
        assert row.answer == greedy_text(model, tokenizer, prompts[row.task_id], 4)
    assert len({row.answer for row in rows}) > 4


def greedy_text(model: Any, tokenizer: Any, prompt: str, length: int) -> str:
    import torch

    tokens: list[int] = tokenizer.encode(prompt)
    answer: list[int] = []
    with torch.inference_mode():
        for _ in range(length):
            answer.append(int(model(torch.tensor([tokens + answer])).logits[0, -1].argmax()))
            if answer[-1] in tokenizer.eos_ids:
                break
    return str(tokenizer.decode(answer))


def test_summary_is_json_without_surprises(run: Run, make_policy: MakePolicy) -> None:
    evaluation, _ = run(make_policy("p", knows(0.5)))
    text = (evaluation.path / "summary.json").read_text()
    assert json.dumps(json.loads(text), sort_keys=True, indent=1, allow_nan=False) + "\n" == text
    assert isinstance(evaluation.read()[0], EvalRow)
