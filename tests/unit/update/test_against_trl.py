"""The same numbers as TRL 1.16, computed by its own trainers, wherever the options coincide (policy-gradient.md section 8).

Where the defaults differ, and what is set here to make them meet:

* Standard deviation: TRL adds 1e-4 to it, as `eps` here; both are unbiased. TRL computes in float32, and a constant
  group of rewards that float32 cannot hold may get an advantage that is not 0 (here it is exactly 0).
* `loss_type="dapo"`, TRL's default, is the token mean alone: clip .2/.2, no filter, no length penalty. `dapo` here is .2/.28.
* `loss_type="cispo"`: `epsilon_high` is the cap itself and defaults to .2, which would scale every gradient by .2. A `cap`
  below 1 is refused here, so the test sets 5.
* GSPO is `importance_sampling_level="sequence"` with `loss_type="grpo"`; TRL keeps the token clip .2 unless told otherwise.
* KL: TRL's estimator is k3 times the ratio (`use_bias_correction_kl`, on by default), `k3w` here; without it, `k3`.
* `delta` caps the ratio itself; for negative advantages that is `clip_dual`.
* RLOO in TRL takes one ratio of the whole sequence; with ratio 1 its gradient is that of `seq_token_sum`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from instar.components.update import kl, losses
from instar.components.update.advantages import advantages
from instar.components.update.aggregate import sequence_weights
from instar.components.update.config import Kl, Mismatch, PolicyGradientConfig
from instar.rows import RolloutRow
from unit.update.world import VOCABULARY, make_world, tiny_llama, weights

if importlib.util.find_spec("trl") is None:
    pytest.skip("needs trl, which the group `bench` installs", allow_module_level=True)

LENGTHS = [1, 7, 3, 5, 2, 6, 4, 7]
GROUP = 4
OFF = Mismatch(kind="off")


# --- token losses: `_compute_loss` of the trainer on given log-probabilities ------------------------------------------


def trl_loss(logp: Tensor, rows: dict[str, Tensor], **options: Any) -> Tensor:
    """Return the loss of TRL's `GRPOTrainer._compute_loss` when the model's log-probabilities are `logp` [B, T]."""
    GRPOTrainer: Any = importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer
    chosen: dict[str, Any] = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "max_completion_length": 16,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "current_gradient_accumulation_steps": 1,
    }
    arguments = {"delta": None, "use_bias_correction_kl": True, "steps_per_generation": 1}
    for name, value in options.items():
        (arguments if name in arguments else chosen)[name] = value

    def same(values: Tensor, **_: Any) -> Tensor:
        return values

    class Everything(dict[str, Any]):
        def __missing__(self, key: str) -> list[float]:
            return self.setdefault(key, [])

    stub = SimpleNamespace(
        **chosen,
        args=SimpleNamespace(**arguments),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=same, reduce=same),
        _metrics={"train": Everything()},
        _get_per_token_logps_and_entropies=lambda *a, **k: (logp, torch.zeros_like(logp), None),
    )
    mask = rows["mask"].long()
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": rows["advantage"],
        "old_per_token_logps": rows["old"],
        "ref_per_token_logps": rows["ref"],
        "num_items_in_batch": mask.sum(),
    }
    loss: Tensor = GRPOTrainer._compute_loss(stub, None, inputs)
    return loss


def our_loss(logp: Tensor, rows: dict[str, Tensor], config: PolicyGradientConfig) -> Tensor:
    """Return the loss of one optimiser step from the functions the update is made of, on the same padded tensors."""
    mask = rows["mask"]
    sequence = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    lengths = mask.sum(1).numpy()
    now, old, ref = logp[mask], rows["old"][mask], rows["ref"][mask]
    log_w = losses.log_ratio(now, old, sequence, len(mask), config.ratio)
    token = losses.token_loss(config, now, log_w, rows["advantage"][sequence])
    if config.kl.place == "loss":
        token = token + config.kl.coef * kl.token_penalty(config.kl.kind, now, ref, now - old)
    weight = sequence_weights(config.aggregate, lengths, np.ones(len(mask), np.bool_), config.max_length)
    return (token * torch.from_numpy(weight)[sequence]).sum()


def random_rows(seed: int, spread: float) -> dict[str, Tensor]:
    """Return padded float64 tensors [B, T]: ratios pi/pi_old of about exp(+-spread), on both sides of every clip."""
    g = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    old = -normal(*shape).abs() - 0.1
    return {
        "mask": torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None],
        "old": old,
        "logp": old + spread * normal(*shape),
        "ref": old + 0.3 * normal(*shape),
        "advantage": normal(shape[0]),
    }


COINCIDE: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "grpo": ({"loss_type": "grpo"}, {"aggregate": "seq_token_mean"}, 0.3),
    "token mean": ({"loss_type": "dapo"}, {"aggregate": "token_mean"}, 0.3),
    "clip higher": ({"loss_type": "dapo", "epsilon_high": 0.28}, {"aggregate": "token_mean", "clip_high": 0.28}, 0.3),
    "dual clip": ({"loss_type": "dapo", "delta": 1.5}, {"aggregate": "token_mean", "clip_dual": 1.5}, 0.6),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {"aggregate": "constant", "max_length": 16}, 0.3),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.4},
        {"objective": "cispo", "cap": 1.4, "aggregate": "token_mean"},
        0.6,
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.01, "epsilon_high": 0.02},
        {"ratio": "sequence", "clip_low": 0.01, "clip_high": 0.02, "aggregate": "seq_token_mean"},
        0.03,
    ),
    "k3": (
        {"loss_type": "dapo", "beta": 0.04, "use_bias_correction_kl": False},
        {"aggregate": "token_mean", "kl": Kl(place="loss", kind="k3", coef=0.04)},
        0.3,
    ),
    "k3 times ratio": (
        {"loss_type": "grpo", "beta": 0.04},
        {"aggregate": "seq_token_mean", "kl": Kl(place="loss", kind="k3w", coef=0.04)},
        0.3,
    ),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", COINCIDE)
def test_loss_and_gradient_are_equal(case: str, seed: int) -> None:
    theirs, ours, spread = COINCIDE[case]
    rows = random_rows(seed, spread)
    config = PolicyGradientConfig(**{"clip_low": 0.2, "clip_high": 0.2, "mismatch": OFF} | ours)
    results = []
    for side in (lambda x: trl_loss(x, rows, **theirs), lambda x: our_loss(x, rows, config)):
        leaf = rows["logp"].clone().requires_grad_()
        loss = side(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
        results.append((loss.item(), gradient))
    (their_loss, their_gradient), (our, our_gradient) = results
    assert our == pytest.approx(their_loss, abs=1e-7)
    assert torch.allclose(our_gradient, their_gradient, rtol=1e-6, atol=1e-9)
    assert bool((our_gradient != 0).any())


@pytest.mark.parametrize("case", ["grpo", "token mean", "clip higher", "dual clip", "gspo"])
def test_the_clip_binds_in_the_compared_rows(case: str) -> None:
    """Without it the comparison would say nothing about clipping: some tokens have lost their gradient, some have not."""
    _, ours, spread = COINCIDE[case]
    config = PolicyGradientConfig(**{"clip_low": 0.2, "clip_high": 0.2, "mismatch": OFF} | ours)
    rows = random_rows(0, spread)
    leaf = rows["logp"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(our_loss(leaf, rows, config), leaf)
    dead = (gradient == 0) & rows["mask"]
    assert 0 < int(dead.sum()) < int(rows["mask"].sum())


# --- advantages: the trainers' own scoring step, with generation replaced ---------------------------------------------


def tokenizer(folder: Path) -> Any:
    """Return a tokenizer of twenty one-letter words; its last two are the padding and the stop token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {chr(ord("a") + i): i for i in range(VOCABULARY - 2)} | {"<pad>": VOCABULARY - 2, "<eos>": VOCABULARY - 1}
    plain = Tokenizer(models.WordLevel(words, unk_token="a"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.save(str(folder / "tokenizer.json"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def make_trainer(kind: str, folder: Path, rewards: Callable[..., list[float | None]], **options: Any) -> Any:
    """Return a real `GRPOTrainer` or `RLOOTrainer` on the CPU, around the tiny Llama of the update's tests."""
    trl: Any = importlib.import_module("trl")
    datasets: Any = importlib.import_module("datasets")
    config, trainer = {
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
    }[kind]
    model = tiny_llama()
    model.generation_config.eos_token_id = VOCABULARY - 1
    arguments = config(
        output_dir=str(folder),
        per_device_train_batch_size=2 * GROUP,
        num_generations=GROUP,
        max_completion_length=7,
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        **options,
    )
    return trainer(
        model=model,
        reward_funcs=rewards,
        args=arguments,
        processing_class=tokenizer(folder),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a b"] * 8}),
    )


def trl_advantages(kind: str, folder: Path, rewards: list[float | None], **options: Any) -> list[float]:
    """Return what TRL makes of `rewards` [2 * GROUP]: its own path from rewards to advantages."""
    trainer = make_trainer(kind, folder, lambda **_: rewards, **options)
    trainer.model.train()
    ids, made = [[1, 2]] * len(rewards), [[3, 4]] * len(rewards)
    texts = ["d e"] * len(rewards)
    answer = (ids, made, None, texts, None, {}, None, []) if kind == "grpo" else (ids, made, texts)
    trainer._generate = lambda prompts: answer
    out = trainer._generate_and_score_completions([{"prompt": "a b"}] * len(rewards))
    return [float(x) for x in out["advantages"]]


REWARDS = [1.0, 0.0, 0.0, 0.0, 0.1, 0.1, 1.0, -0.5]
GROUPS = np.repeat(np.arange(2), GROUP)


@pytest.mark.parametrize(
    ("kind", "options", "ours"),
    [
        ("grpo", {"scale_rewards": "group"}, {"baseline": "group", "scale": "group_std"}),
        ("grpo", {"scale_rewards": "none"}, {"baseline": "group", "scale": "none"}),
        ("rloo", {"beta": 0.0}, {"baseline": "loo", "scale": "none"}),
    ],
    ids=["group std", "no scale", "leave one out"],
)
def test_advantages_are_equal(kind: str, options: Any, ours: Any, tmp_path: Path) -> None:
    found = trl_advantages(kind, tmp_path, list(REWARDS), **options)
    mine = advantages(np.asarray(REWARDS), GROUPS, 2, eps=1e-4, **ours)
    assert mine == pytest.approx(found, abs=2e-6)


def test_batch_scaling_is_equal(tmp_path: Path) -> None:
    """`scale_rewards="batch"`: the group's mean, the standard deviation of all rewards."""
    found = trl_advantages("grpo", tmp_path, list(REWARDS), scale_rewards="batch")
    mine = advantages(np.asarray(REWARDS), GROUPS, 2, eps=1e-4, baseline="group", scale="batch_std")
    assert mine == pytest.approx(found, abs=2e-6)


def test_the_leave_one_out_fixture(tmp_path: Path) -> None:
    """[1, 0, 0, 0]: 1 - 0, and -1/3 three times; GRPO's are 1.5 and -.5 with an eps of 1e-4."""
    found = trl_advantages("rloo", tmp_path, [1.0, 0.0, 0.0, 0.0] * 2, beta=0.0)
    assert found[:4] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3], abs=1e-6)
    found = trl_advantages("grpo", tmp_path, [1.0, 0.0, 0.0, 0.0] * 2, scale_rewards="group")
    assert found[:4] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)


def test_a_sample_without_a_score_is_left_out_on_both_sides(tmp_path: Path) -> None:
    """TRL keeps the row with advantage 0; here it is not passed on. The other three of the group agree."""
    values: list[float | None] = [1.0, None, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    found = trl_advantages("grpo", tmp_path, values, scale_rewards="group")
    keep = [i for i, v in enumerate(values) if v is not None]
    mine = advantages(
        np.asarray([values[i] for i in keep], np.float64),
        GROUPS[keep],
        2,
        eps=1e-4,
        baseline="group",
        scale="group_std",
    )
    assert mine == pytest.approx([found[i] for i in keep], abs=2e-6)
    assert found[1] == 0.0


# --- one whole step: the same weights after the same update -----------------------------------------------------------


def trl_inputs(rollouts: list[RolloutRow], advantage: list[float]) -> dict[str, Any]:
    """Return the batch as TRL lays it out: prompts padded on the left, answers on the right."""
    spans = [row.steps[0].end for row in rollouts]
    prompts = [row.token_ids[:end] for row, end in zip(rollouts, spans, strict=True)]
    answers = [row.token_ids[end:] for row, end in zip(rollouts, spans, strict=True)]
    p, c = max(map(len, prompts)), max(map(len, answers))

    def padded(rows: list[list[int]], width: int, left: bool, ones: bool) -> Tensor:
        out = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            out[i, place] = 1 if ones else torch.tensor(row)
        return out

    mask = padded(answers, c, False, True)
    return {
        "prompt_ids": padded(prompts, p, True, False),
        "prompt_mask": padded(prompts, p, True, True),
        "completion_ids": padded(answers, c, False, False),
        "completion_mask": mask,
        "advantages": torch.tensor(advantage),
        "num_items_in_batch": mask.sum(),
    }


STEP: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"loss_type": "grpo"}, {"aggregate": "seq_token_mean"}),
    "dapo": ({"loss_type": "dapo"}, {"aggregate": "token_mean"}),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"aggregate": "constant", "max_length": 7, "scale": "none"},
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"objective": "cispo", "cap": 5.0, "aggregate": "token_mean"},
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregate": "seq_token_mean"},
    ),
}


@pytest.mark.parametrize("packing", ["none", "prefix"])
@pytest.mark.parametrize("case", STEP)
def test_one_update_moves_the_weights_alike(case: str, packing: str, tmp_path: Path) -> None:
    """The stage `update` against TRL's `compute_loss`, PyTorch's clipping and its AdamW, on the same rollouts.

    Adam's eps is 1, so that the step is smooth in the gradient and rounding noise is not blown up where it is near 0.
    """
    theirs, ours = STEP[case]
    world = make_world(tmp_path, prompts=2, size=GROUP)
    world.scores[0] = dataclasses.replace(world.scores[0], reward=0.7)
    adam: dict[str, Any] = {"lr": 0.5, "eps": 1.0, "weight_decay": 0.0}
    config = PolicyGradientConfig(
        **{
            "clip_high": 0.2,
            "mismatch": OFF,
            "lr": adam["lr"],
            "adam_eps": adam["eps"],
            "max_grad_norm": 0.5,
            "packing": packing,
        }
        | ours
    )
    outs, _ = world.update(config)

    rewards = [score.reward for score in world.scores]
    advantage = trl_advantages("grpo", tmp_path, rewards, **{k: v for k, v in theirs.items() if k == "scale_rewards"})
    trainer = make_trainer("grpo", tmp_path, lambda **_: rewards, **theirs)
    trainer.current_gradient_accumulation_steps = 1
    same_weights(trainer, trl_inputs(world.rollouts, advantage), weights(outs.policy), adam)


def test_one_rloo_update_moves_the_weights_alike(tmp_path: Path) -> None:
    """TRL's sequence ratio is 1 on fresh samples, and its gradient that of the sum of the sequence's tokens."""
    world = make_world(tmp_path, prompts=2, size=GROUP)
    adam: dict[str, Any] = {"lr": 0.5, "eps": 1.0, "weight_decay": 0.0}
    outs, _ = world.update(
        PolicyGradientConfig(
            baseline="loo",
            scale="none",
            aggregate="seq_token_sum",
            clip_high=0.2,
            mismatch=OFF,
            lr=0.5,
            adam_eps=1.0,
            max_grad_norm=0.5,
        )
    )
    rewards = [score.reward for score in world.scores]
    inputs = trl_inputs(world.rollouts, trl_advantages("rloo", tmp_path, rewards, beta=0.0))
    trainer = make_trainer("rloo", tmp_path, lambda **_: rewards, beta=0.0)
    ids, mask = (
        torch.cat([inputs[f"{part}_{kind}"] for part in ("prompt", "completion")], 1) for kind in ("ids", "mask")
    )
    with torch.no_grad():
        width = inputs["completion_ids"].shape[1]
        logp, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)
    inputs["old_logps"] = (logp * inputs["completion_mask"]).sum(1)
    same_weights(trainer, inputs, weights(outs.policy), adam)


def same_weights(trainer: Any, inputs: dict[str, Any], mine: dict[str, Tensor], adam: dict[str, Any]) -> None:
    """Take TRL's step on `inputs` with PyTorch's own optimiser and compare its weights with `mine`."""
    trainer.model.train()
    trainer.compute_loss(trainer.model, inputs).backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 0.5)
    torch.optim.AdamW(trainer.model.parameters(), **adam).step()
    before = dict(tiny_llama().named_parameters())
    moved = 0.0
    for name, value in trainer.model.named_parameters():
        if name in mine:
            assert torch.allclose(mine[name], value.detach(), atol=2e-6), name
            moved = max(moved, float((value - before[name]).detach().abs().max()))
    assert moved > 1e-3
