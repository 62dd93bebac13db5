"""Supervised warm start: a new model learns the format of answers on the easiest arms. The evolution has to learn the harder
arms."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from instar.components.dataset_prep import warm_generated
from instar.components.dataset_prep.charlm import EOS, PAD
from instar.components.dataset_prep.warm_generated import GeneratedWarmStart
from instar.config import out_of_range
from instar.errors import ConfigError, NumericsError
from instar.rows import TaskRow
from instar.seeds import torch_generator

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Cross-entropy on the answers to tasks of `arms`. AdamW with a linear warm-up and a cosine decay to a tenth of `lr`."""

    arms: tuple[str, ...]
    share: float = 1.0
    """Share of the training tasks of each arm that is shown solved: the first ones. The evolution has to solve the others."""
    steps: int
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 30
    weight_decay: float = 0.01
    generated: GeneratedWarmStart | None = None
    """Also teach the format of judging and correcting, on tasks of the same arms."""
    weight: Literal["token", "example"] = "token"
    """What has equal weight in the loss: every token, or every example. With `example`, a verdict of one letter has the same weight
    as a long answer."""

    def __post_init__(self) -> None:
        """Refuse sizes and rates that are out of range."""
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise out_of_range(f"dataset_prep.initial.warm_start.{name}", f">= {least}", getattr(self, name))
        if not 0.0 < self.share <= 1.0:
            raise out_of_range("dataset_prep.initial.warm_start.share", "in (0, 1]", self.share)
        if not self.lr > 0:
            raise out_of_range("dataset_prep.initial.warm_start.lr", "> 0", self.lr)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[TaskRow],
    config: WarmStartConfig,
    seed: int,
    heartbeat: Callable[[str, Mapping[str, float]], None],
) -> dict[str, float]:
    """Train the model in place on the training tasks of `config.arms`. Return the last loss and the number of examples."""
    import torch

    ids, labels = _encode(tokenizer, pairs(tasks, config, seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_scale(step, config))
    order = _order(len(ids), config, seed)
    loss_value = math.inf
    model.train()
    for step in range(config.steps):
        rows = order[step * config.batch : (step + 1) * config.batch]
        loss = _loss(model, ids[rows], labels[rows], config.weight)
        loss_value = float(loss.detach())
        if not math.isfinite(loss_value):
            raise NumericsError(
                expected="a finite loss",
                found=f"{loss_value} at step {step}",
                where="dataset_prep.warm_start",
                action="lower dataset_prep.initial.warm_start.lr",
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 20 == 0:
            heartbeat(f"warm start {step + 1}/{config.steps}", {"loss": loss_value})
    model.eval()
    return {"warm_start/loss": loss_value, "warm_start/examples": float(config.steps * config.batch)}


def _lr_scale(step: int, config: WarmStartConfig) -> float:
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    done = min(1.0, step / max(1, config.steps))
    return warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _order(count: int, config: WarmStartConfig, seed: int) -> torch.Tensor:
    """Return steps * batch row numbers. Every pass over the rows is a fresh shuffle."""
    import torch

    generator = torch_generator(seed)
    need = config.steps * config.batch
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(-(-need // count))])[:need]


def pairs(tasks: Sequence[TaskRow], config: WarmStartConfig, seed: int) -> list[tuple[str, str]]:
    """Return prompts with their answers: first the tasks of the arms, then the examples of generated tasks."""
    chosen = _shown([task for task in tasks if task.split == "train" and task.arm in config.arms], config.share)
    missing = sorted(set(config.arms) - {task.arm for task in chosen})
    if missing:
        raise ConfigError(
            expected="arms with training tasks",
            found=f"{missing}",
            where="warm_start.arms",
            action="name arms of the pools that have training tasks",
        )
    solved = [(task.prompt, str(json.loads(task.reference)["answer"])) for task in chosen]
    return solved + (warm_generated.examples(chosen, config.generated, seed) if config.generated else [])


def _shown(tasks: Sequence[TaskRow], share: float) -> list[TaskRow]:
    """Return the first `share` of the tasks of each arm, at least one."""
    left = {arm: math.ceil(share * count) for arm, count in Counter(task.arm for task in tasks).items()}
    shown = []
    for task in tasks:
        left[task.arm] -= 1
        if left[task.arm] >= 0:
            shown.append(task)
    return shown


def _encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, both [N, T]. Labels are -100 on prompts and padding."""
    import torch

    pairs = [(tokenizer.encode(prompt), tokenizer.encode(answer)) for prompt, answer in texts]
    width = max(len(prompt) + len(answer) + 1 for prompt, answer in pairs)
    eos, pad = (tokenizer.get_vocab()[token] for token in (EOS, PAD))
    ids = torch.full((len(pairs), width), pad)
    labels = torch.full((len(pairs), width), -100)
    for row, (prompt, answer) in enumerate(pairs):
        full = [*prompt, *answer, eos]
        ids[row, : len(full)] = torch.tensor(full)
        labels[row, len(prompt) : len(full)] = torch.tensor(full[len(prompt) :])
    return ids, labels


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, weight: str) -> torch.Tensor:
    """Return the mean cross-entropy over answer tokens, or the mean over examples of that mean.

    Padding is on the right, and attention is causal. So no attention mask is needed.
    """
    import torch

    width = int((labels != -100).any(0).nonzero().max()) + 1
    logits, wanted = model(input_ids=ids[:, : width - 1]).logits, labels[:, 1:width]
    if weight == "token":
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, reduction="none")
    return (each.sum(1) / (wanted != -100).sum(1)).mean()
