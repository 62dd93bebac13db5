"""Where the time of a policy update goes on a real model: forward, backward and optimizer, in CPU seconds.

Two batches: 8 prompts of 34 tokens with 8 answers of 6 each, and 2 prompts of 128 with 4 answers of 128. Sides: `before`,
float32 weights under autocast with one sequence a row; `plain`, the bfloat16 copy with one sequence a row; `auto`, the same
with the layout that `batching.choose` takes. All compute the same loss, and the gradients are compared with those of float32
in the same process. The tokens are those of this repository's licence: on random ones bfloat16 gradients of a pretrained model,
autocast or not, have nothing to do with float32's. The model is `INSTAR_BENCH_MODEL`, a folder of any causal language model in
safetensors; without it a Llama of 17 million parameters with random weights stands in.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instar import seeds
from instar.components.update.update_batch import UpdateBatch

CASES = (("64 x 40", 8, 8, 34, 6), ("8 x 256", 2, 4, 128, 128))
"""name, prompts, answers each, tokens of a prompt, tokens of an answer"""
SIDES = ("before", "plain", "auto")
REPEATS = 1
BUDGET = 2048
TOLERANCE = 0.3
"""Relative difference of a bfloat16 gradient that is not an error. Printed for every side."""


@dataclass
class Cost:
    """CPU seconds by part, and positions that were computed."""

    forward: float = 0.0
    backward: float = 0.0
    optimizer: float = 0.0
    positions: int = 0

    @property
    def total(self) -> float:
        """All parts."""
        return self.forward + self.backward + self.optimizer


def run() -> list[dict[str, Any]]:
    """Return one row per batch and side; `speedup` is CPU seconds of `before` over those of the side."""
    import torch

    torch.set_num_threads(1)
    model = load()
    rows = []
    for name, prompts, answers, prompt, answer in CASES:
        data = experience(text(model.config.vocab_size), prompts, answers, prompt, answer)
        tokens = int(data.widths.sum())
        exact = gradients(model, data)
        trainer = Trainer(model)
        costs: dict[str, list[Cost]] = {side: [] for side in SIDES}
        for number in range(REPEATS + 1):  # the first round warms up
            for side in SIDES:
                cost, error = trainer.step(side, data, exact)
                costs[side] += [cost] if number else []
                print(f"  {name} {side}: {cost.total:.1f} CPU s, gradient off by {error:.3f}", flush=True)
                assert error < TOLERANCE, f"{side} computes another gradient: relative difference {error}"
        best = {side: min(values, key=lambda c: c.total) for side, values in costs.items()}
        for side, cost in best.items():
            rows.append(
                {
                    "row": f"{name}, {side}",
                    "forward_s": round(cost.forward, 2),
                    "backward_s": round(cost.backward, 2),
                    "optimizer_s": round(cost.optimizer, 2),
                    "tokens_per_cpu_s": round(tokens / cost.total, 1),
                    "positions_over_tokens": round(cost.positions / tokens, 3),
                    "speedup": round(best["before"].total / cost.total, 2),
                }
            )
    return rows


class Trainer:
    """One set of weights with its optimizer; a side says how their gradient is computed."""

    def __init__(self, model: Any) -> None:
        from instar.components.update.bfloat16_copy import Bfloat16Copy
        from instar.components.update.config import PolicyGradientConfig
        from instar.components.update.optimizer import Optimizer

        self.config = PolicyGradientConfig(lr=1e-12)  # nothing moves, so that sides and rounds compute the same
        self.master, self.working = model, Bfloat16Copy(model)
        self.optimizer = Optimizer(self.config, model.named_parameters())

    def step(self, side: str, data: UpdateBatch, exact: Any) -> tuple[Cost, float]:
        """Take one optimizer step; return its cost and how far its gradient is from the exact one."""
        from instar.components.update import batching

        every, cost = np.arange(len(data.group)), Cost()
        layout = batching.choose(data, every, BUDGET) if side == "auto" else "none"
        self.optimizer.zero_grad()
        for micro in batching.micro_batches(data, every, BUDGET, layout):
            began = time.process_time()
            logp = self.logprobs(side, micro)
            then = time.process_time()
            loss(logp, micro, data).backward()
            cost.forward, cost.backward = cost.forward + then - began, cost.backward + time.process_time() - then
            cost.positions += micro.input_ids.numel()
        error = distance(self.master, exact)
        began = time.process_time()
        self.optimizer.step()
        if side != "before":
            self.working.refresh()
        cost.optimizer = time.process_time() - began
        return cost, error

    def logprobs(self, side: str, micro: Any) -> Any:
        """Return the log-probabilities of the action tokens."""
        import torch

        from instar.components.update.forward import score, trunk
        from instar.kernels.logprob.dispatch import selected_logprob

        if side != "before":
            return score(self.working.model, micro, self.config).logp
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = trunk(self.master, micro.input_ids)
        picked = hidden.flatten(0, 1).index_select(0, micro.head_at).bfloat16()
        weight = self.master.get_output_embeddings().weight.bfloat16()
        return selected_logprob(picked, weight, None, micro.targets, entropy_grad=False)[0]


def loss(logp: Any, micro: Any, data: UpdateBatch) -> Any:
    """Return a policy-gradient loss with advantages of both signs, as a mean over all action tokens."""
    return -(logp * (1.0 - 2.0 * (micro.rows[micro.sequence] % 2))).sum() / len(data.behaviour)


def gradients(model: Any, data: UpdateBatch) -> Any:
    """Return the float32 gradient of every parameter, one sequence a row."""
    from instar.components.update import batching
    from instar.components.update.config import PolicyGradientConfig
    from instar.components.update.forward import score

    model.zero_grad()  # the last step of another batch left its own
    for micro in batching.micro_batches(data, np.arange(len(data.group)), BUDGET, "none"):
        loss(score(model, micro, PolicyGradientConfig()).logp, micro, data).backward()
    found = [p.grad for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    return found


def distance(model: Any, exact: Any) -> float:
    """Return |g - exact| / |exact| over all parameters."""
    pairs = [(p.grad.double(), g.double()) for p, g in zip(model.parameters(), exact, strict=True)]
    return float((sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5)


def load() -> Any:
    """Return the model in float32."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if folder := os.environ.get("INSTAR_BENCH_MODEL"):
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    else:
        shape: dict[str, Any] = {
            "hidden_size": 256,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
        model = LlamaForCausalLM(
            LlamaConfig(**shape, intermediate_size=1024, vocab_size=32_768, tie_word_embeddings=True)
        )
        generator = seeds.torch_generator(0)
        for p in model.parameters():
            if p.ndim >= 2:
                p.data.normal_(0.0, 0.05, generator=generator)
    return model.eval()


def text(vocabulary: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the licence as tokens of the model; random ones for the stand-in, whose weights are random too."""
    if folder := os.environ.get("INSTAR_BENCH_MODEL"):
        from transformers import AutoTokenizer

        words = (Path(__file__).parents[1] / "LICENSE").read_text()
        return np.array(AutoTokenizer.from_pretrained(folder, local_files_only=True)(words)["input_ids"])
    return seeds.rng("benchmark", 0, "update", "tokens").integers(0, vocabulary, 2048)


def experience(
    words: np.ndarray[Any, np.dtype[np.int64]], prompts: int, answers: int, prompt: int, answer: int
) -> UpdateBatch:
    """Return rollouts cut from `words` one after the other: `answers` for each of `prompts`."""
    num, width = prompts * answers, prompt + answer
    asked, said = prompts * prompt, num * answer
    rows = np.empty((num, width), dtype=np.int64)
    rows[:, :prompt] = np.repeat(words[:asked].reshape(prompts, prompt), answers, axis=0)
    rows[:, prompt:] = words[asked : asked + said].reshape(num, answer)
    start = np.arange(num + 1)
    at = (start[:-1, None] * width + prompt + np.arange(answer)).ravel()
    ones = np.ones(num, dtype=np.bool_)
    return UpdateBatch(
        rollout_id=None,
        tokens=rows.ravel(),
        token_offset=start * width,
        action_at=at,
        action_offset=start * answer,
        behaviour=np.zeros(len(at)),
        group=start[:-1] // answers,
        group_arm=np.zeros(prompts, dtype=np.int64),
        arms=("a",),
        group_size=np.full(prompts, answers),
        kind=("text",) * num,
        policy=("p",) * num,
        scored=ones,
        dropped=np.zeros(prompts, dtype=np.bool_),
        reward=np.zeros(num),
        correct=np.zeros(num),
        truncated=~ones,
    )
