"""TRL's side: `GRPOTrainer.train()` itself, held at every step by a callback.

The settings are those that cost it least: one micro-batch, no gradient checkpointing, no logging and no saving, fused
AdamW. `trl` keeps float32 weights and computes in bfloat16 (autocast), as TRL's defaults do; `trl-bf16` keeps bfloat16 weights
and moments, which is cheaper and loses updates that are smaller than half a unit in the last place of a weight.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpo_vs_trl_tasks as arithmetic
from grpo_vs_trl_turns import Turns, counts, examine, memory

from instar.components.reward.verifiers import Score, verify
from instar.rows import TaskRow


def side(
    name: str,
    settings: argparse.Namespace,
    rows: Sequence[TaskRow],
    drawn: Sequence[Sequence[str]],
    turns: Turns,
    scratch: Path,
) -> None:
    """Take the steps, then examine the final policy."""
    transformers: Any = importlib.import_module("transformers")
    by_id, record = {row.task_id: row for row in rows}, {}

    def reward(completions: list[str], task: list[str], **_: Any) -> list[float]:
        verdicts = [verify(by_id[i], text, "line") for text, i in zip(completions, task, strict=True)]
        return [verdict.correct if isinstance(verdict, Score) else 0.0 for verdict in verdicts]

    trainer = make(name, settings, [by_id[i] for names in drawn for i in names], reward, scratch)

    class Steps(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.wait()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.done(dict(record))

    def generated(prompts: Any) -> Any:
        out = generate(prompts)
        record.update(counts(out[0], out[1]))
        return out

    def rewarded(*args: Any, **options: Any) -> Any:
        values = calculate(*args, **options)
        grouped = values[:, 0].view(-1, settings.group)
        record["reward"] = float(values.mean())
        record["informative_share"] = float((grouped.amax(1) > grouped.amin(1)).double().mean())
        return values

    generate, calculate = trainer._generate, trainer._calculate_rewards
    trainer._generate = turns.timed("rollout", generated)
    trainer._calculate_rewards = turns.timed("reward", rewarded)
    trainer.add_callback(Steps())
    turns.send({**memory(), "greedy_ids": greedy(trainer, [by_id[i].prompt for i in drawn[0]])})
    trainer.train()
    peak = memory()
    folder = save(trainer, settings, scratch / "final")
    turns.send({**peak, "greedy": examine(folder, rows, settings, scratch)})


def make(name: str, settings: argparse.Namespace, order: Sequence[TaskRow], reward: Any, scratch: Path) -> Any:
    """Return the trainer: the same model, prompts in the same order, group, lengths, stop rule, loss and optimiser."""
    torch: Any = importlib.import_module("torch")
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    transformers: Any = importlib.import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(settings.model, padding_side="left")
    kind = torch.bfloat16 if name == "trl-bf16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(settings.model, dtype=kind, attn_implementation="sdpa")
    model.generation_config.eos_token_id = stop_ids(tokenizer, model.generation_config.eos_token_id)
    rollouts = settings.prompts * settings.group
    config = trl.GRPOConfig(
        output_dir=str(scratch / "trl"),
        use_cpu=True,
        seed=settings.seed,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        max_steps=len(order) // settings.prompts,
        shuffle_dataset=False,
        per_device_train_batch_size=rollouts,
        gradient_accumulation_steps=1,
        num_generations=settings.group,
        max_completion_length=settings.max_new_tokens,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        num_iterations=1,
        loss_type="dapo",
        scale_rewards="group",
        epsilon=0.2,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        activation_checkpointing=False,
        bf16=name == "trl" and settings.update_dtype == "bfloat16",
    )
    data = datasets.Dataset.from_dict({"prompt": [r.prompt for r in order], "task": [r.task_id for r in order]})
    return trl.GRPOTrainer(
        model=model, reward_funcs=reward, args=config, processing_class=tokenizer, train_dataset=data
    )


def greedy(trainer: Any, prompts: list[str]) -> list[list[int]]:
    """Return the greedy answers of the first policy to the prompts of the first step, as the trainer generates."""
    torch: Any = importlib.import_module("torch")
    inputs = trainer.processing_class(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        found = trainer.model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=trainer.max_completion_length,
            eos_token_id=trainer.eos_token_ids,
        )
    answers = []
    for row in found[:, inputs["input_ids"].shape[1] :].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in trainer.eos_token_ids), len(row))
        answers.append(row[:end])
    return answers


def stop_ids(tokenizer: Any, own: int | list[int]) -> list[int]:
    """Return the model's stop tokens and every token with a line break in it: the first of them ends an answer."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    breaks = [i for i, text in enumerate(texts) if arithmetic.STOP in text]
    return [*([own] if isinstance(own, int) else own), *breaks]


def save(trainer: Any, settings: argparse.Namespace, folder: Path) -> Path:
    """Write the trained model beside the tokenizer and the generation settings it started with."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder)
    for file in Path(settings.model).iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    return folder
