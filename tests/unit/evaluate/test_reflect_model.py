"""Reflection through the real engine: a tiny Llama that learned a scripted solver, judge and corrector by heart. About 15 s."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from instar.artifact import Evaluation, Policy, Tasks
from instar.components.evaluate.config import AnswerConfig
from instar.components.evaluate.judge_config import ReflectConfig
from instar.components.evaluate.stage import STAGE, Ins, Outs
from instar.components.tokenizer import load_tokenizer
from instar.contract import Context
from unit.evaluate.conftest import ALPHABET, EOS
from unit.evaluate.judges import CONFIG, Reply, honest, scripted, with_anchors

SMALL = dataclasses.replace(CONFIG, tasks_per_arm=8, reflect=ReflectConfig(margin=0.0, least_gain=-1.0))
FIXES = {0: "1", 4: "22", 5: "5", 6: "6", 7: "x"}
SECOND = {4: "4"}


def fix(number: int, answer: str) -> str:
    return FIXES.get(number, str(number)) if answer in ("x", str(number)) else SECOND.get(number, answer)


def judge(number: int, answer: str) -> str:
    """Takes the right answer to 0 for wrong and its rewrite 1 for right, accepts the wrong answer to 3; else it knows."""
    if number == 0 and answer in ("0", "1"):
        return "y" if answer == "1" else "n"
    return "y" if (number, answer) == (3, "x") else honest(number, answer)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than these matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learned(policy: Policy, pairs: dict[str, str]) -> LlamaForCausalLM:
    """Return a one-layer model that gives every reply of `pairs`; right padding is never scored."""
    shape = {"vocab_size": EOS + 1, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    ids = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(**shape, **heads, **ids))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    tokenizer = load_tokenizer(policy)
    rows = [(tokenizer.encode(p), [*map(ALPHABET.index, r), EOS]) for p, r in pairs.items()]
    width = max(len(p) + len(r) for p, r in rows)
    tokens, labels = torch.full((len(rows), width), EOS), torch.full((len(rows), width), -100)
    for i, (prompt, reply) in enumerate(rows):
        tokens[i, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        labels[i, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    worst = 1.0  # a small mean would leave room for one question that was not learned
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(1000):
        logits = model(input_ids=tokens[:, :-1]).logits
        wanted = labels[:, 1:].flatten()
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=-100, reduction="none")
        optimizer.zero_grad()
        (each.sum() / (wanted != -100).sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        worst = float(each.detach().max())
        if worst < 0.05:
            break
    assert worst < 0.05
    return model.eval()


def test_a_model_reflects_as_the_script_that_it_learned(
    make_policy: Callable[[str, Reply], Policy],
    tasks: Tasks,
    context: Callable[[int], Context],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools = with_anchors(tasks, tmp_path / "anchored", questions=10)
    seen: dict[str, str] = {}
    script = scripted(lambda n: str(n) if n < 3 else "x", judge, fix)

    def noted(prompt: str, seed: int, temperature: float) -> str:
        seen[prompt] = script(prompt, seed, temperature)
        return seen[prompt]

    def run(policy: Policy, config: AnswerConfig = SMALL) -> tuple[dict[str, Any], list[str]]:
        out = Evaluation(tmp_path / f"out-{policy.digest}")
        STAGE(Ins(tasks=pools, policy=policy, baseline=None), Outs(evaluation=out), config, context(0))
        return out.read_json("summary.json"), (out.path / "reflections.jsonl").read_text().splitlines()

    expected, said = run(make_policy("script", noted))
    after = expected["splits"]["val"]["reflected"]
    assert after["gate"]["open"] and after["calls_max"] == 5
    # of 8: right 0 1 2; 0 is spoiled, 3 is accepted though wrong, 4 5 6 are corrected, 7 stays
    assert (after["plain"], after["score"]) == (pytest.approx(3 / 8), pytest.approx(5 / 8))
    assert (after["wrong_to_right"], after["right_to_wrong"]) == (6, 2)

    policy = make_policy("sha256:model", noted)
    learned(policy, seen).save_pretrained(policy.path)
    monkeypatch.undo()
    found, spoken = run(policy)
    assert spoken == said
    assert found["splits"]["val"]["reflected"] == after
    assert found["judge"] == expected["judge"]
    ours, theirs = found["splits"]["val"]["own"], expected["splits"]["val"]["own"]
    assert 0.0 < ours["ece"] <= 1.0 and ours["brier"] == pytest.approx(theirs["brier"], abs=0.02)
    assert {k: v for k, v in ours.items() if k not in ("ece", "brier")} == {
        k: v for k, v in theirs.items() if k not in ("ece", "brier")
    }
