"""Failures that today's trainers pass over in silence, planted one by one: each must be loud or harmless here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from instar.artifact import Policy
from instar.components.policy_io import load_model
from instar.components.update import losses, memory
from instar.components.update.advantages import advantages
from instar.components.update.aggregate import sequence_weights
from instar.components.update.config import Filter, Kl, Overlong, PolicyGradientConfig
from instar.components.update.presets import preset
from instar.errors import ConfigError, ContractError, InstarError, LedgerError, NumericsError, RewardError
from instar.resident import Resident
from instar.rows import RolloutRow
from unit.update.world import World, make_world, score_row, tiny_llama, weights


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def test_constant_rewards_explode_in_the_usual_formula_and_are_zero_here() -> None:
    rewards = torch.full((4, 8), 0.9)
    usual = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-9)
    assert float(usual.abs().max()) > 1  # rounding noise as large as a signal
    ours = advantages(np.full(8, 0.9), np.zeros(8, dtype=np.int64), 1, baseline="group", scale="group_std", eps=1e-9)
    assert not ours.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "cispo", "cap": 0.2},
        {"ratio": "sequence", "clip_low": 0.2, "clip_high": 0.2},
        {"aggregate": "constant"},
        {"min_group": 1},
    ],
    ids=["cispo cap", "gspo clip", "constant without length", "group of one"],
)
def test_inherited_defaults_that_train_the_wrong_thing(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PolicyGradientConfig(**changes)


def test_k1_in_the_loss() -> None:
    with pytest.raises(ConfigError, match="expected gradient of k1 is 0"):
        Kl(place="loss", kind="k1", coef=0.01)


def test_a_mean_of_micro_batch_means_is_not_the_mean() -> None:
    """Row 1: sequences of 1 and 9 tokens in two micro-batches, as gradient accumulation splits them."""
    lengths, token_loss = np.array([1, 9]), np.array([1.0, 0.0])
    usual = np.mean([token_loss[0], token_loss[1]])
    ours = (sequence_weights("token_mean", lengths, np.array([True, True])) * token_loss * lengths).sum()
    assert usual == 0.5 and ours == pytest.approx(0.1)


def test_masked_sequences_leave_the_denominator(world: World) -> None:
    """Trap 5: answers masked in the numerator must not stay in the denominator."""
    cut = [row.rollout_id for row in world.rollouts if row.rollout_id.endswith("/0")]
    world.rollouts = [dataclasses.replace(r, truncated=r.rollout_id in cut) for r in world.rollouts]
    _, metrics = world.update(PolicyGradientConfig(lr=1e-4, overlong=Overlong(kind="mask")))
    kept = [r for r in world.rollouts if not r.truncated]
    assert metrics["normaliser"] == sum(len(r.behaviour_logprobs) for r in kept)


def test_a_group_of_one(world: World) -> None:
    world.batch = [dataclasses.replace(row, group_size=1) for row in world.batch]
    world.rollouts = [r for r in world.rollouts if r.rollout_id.endswith("/0")]
    world.scores = [s for s in world.scores if s.rollout_id.endswith("/0")]
    with pytest.raises(ConfigError, match="group_size >= 2"):
        world.update(PolicyGradientConfig())


def test_lost_rollouts_are_counted_not_hidden(world: World) -> None:
    world.rollouts, world.scores = world.rollouts[1:], world.scores[1:]
    _, metrics = world.update(PolicyGradientConfig(lr=1e-5))
    assert metrics["num_invalid"] == 1


def test_a_failed_verifier_is_not_a_zero(world: World) -> None:
    """Three right answers and one that could not be judged: nothing to learn. Counted as 0 it would be a signal."""
    world.scored(lambda row: 1.0)
    world.scores = [
        score_row(s.rollout_id, None, None, "failed") if s.rollout_id.endswith("/0") else s for s in world.scores
    ]
    _, metrics = world.update(PolicyGradientConfig())
    assert metrics["abs_advantage_mean"] == 0 and metrics["updates"] == 0 and metrics["num_invalid"] == 4


@pytest.mark.parametrize("plant", ["missing", "doubled", "scored without reward", "of another rollout"])
def test_scores_that_do_not_cover_the_rollouts(world: World, plant: str) -> None:
    if plant == "missing":
        world.scores = world.scores[:-1]
    elif plant == "doubled":
        world.scores = [*world.scores, score_row("other", 1.0, 1.0)]
    elif plant == "of another rollout":
        world.scores[0] = dataclasses.replace(world.scores[0], rollout_id="other")
    else:
        world.scores[0] = dataclasses.replace(world.scores[0], reward=None)
    with pytest.raises(RewardError):
        world.update(PolicyGradientConfig())


@pytest.mark.parametrize(
    "plant", ["other group", "other arm", "short log-probabilities", "positive", "gap", "no prompt"]
)
def test_rollouts_that_do_not_fit(world: World, plant: str) -> None:
    row = world.rollouts[0]
    changes: dict[str, Any] = {
        "other group": {"group_id": "elsewhere"},
        "other arm": {"arm": "hard"},
        "short log-probabilities": {"behaviour_logprobs": row.behaviour_logprobs[:-1]},
        "positive": {"behaviour_logprobs": [0.5 for _ in row.behaviour_logprobs]},
        "gap": {"steps": [row.steps[0], dataclasses.replace(row.steps[1], start=row.steps[1].start + 1)]},
        "no prompt": {"steps": [dataclasses.replace(row.steps[1], start=0)]},
    }[plant]
    world.rollouts[0] = dataclasses.replace(row, **changes)
    with pytest.raises(ContractError):
        world.update(PolicyGradientConfig())


@pytest.mark.parametrize("token", [-1, 10_000])
def test_tokens_that_the_model_does_not_have(world: World, token: int) -> None:
    """On a CUDA device the lookup of such a token ends the process with an assertion that names no row."""
    row = world.rollouts[3]
    world.rollouts[3] = dataclasses.replace(row, token_ids=[*row.token_ids[:-1], token])
    with pytest.raises(ContractError, match=rf"token ids in 0\.\..*{token}"):
        world.update(PolicyGradientConfig())


def test_rollouts_of_an_older_policy_without_a_correction(world: World) -> None:
    """Trap 8: a ratio that is always 1 although the samples are off-policy."""
    world.rollouts = [dataclasses.replace(r, policy="older") for r in world.rollouts]
    with pytest.raises(ContractError, match="older"):
        world.update(preset("sec"))


def test_several_passes_really_update(world: World) -> None:
    """Trap 9: two epochs that end where one ends."""
    one, _ = world.update(PolicyGradientConfig(lr=1e-3))
    two, metrics = world.update(PolicyGradientConfig(lr=1e-3, epochs=2))
    assert metrics["updates"] == 2 and metrics["ratio/max"] != 1
    assert not torch.equal(weights(one.policy)["model.norm.weight"], weights(two.policy)["model.norm.weight"])


def test_a_format_reward_does_not_pass_the_filter(world: World) -> None:
    """Trap 11: every answer is wrong, half of them well formatted; std scaling would make that a full signal."""
    world.scored(lambda row: 0.1 if row.rollout_id[-1] in "01" else 0.0)
    world.scores = [dataclasses.replace(s, correct=0.0) for s in world.scores]
    outs, metrics = world.update(PolicyGradientConfig(filter=Filter(kind="zero_variance")))
    assert metrics["updates"] == 0 and metrics["kept_share"] == 0 and metrics["all_wrong_share"] == 1
    rows = outs.stats.read()
    assert all((row.sum_abs_advantage or 0.0) > 0 and row.sum_abs_advantage_correct == 0 for row in rows)


def _at_temperature(world: World, row: RolloutRow, temperature: float) -> list[float]:
    """Return the log-probabilities that a sampler at another temperature would have recorded."""
    model = load_model(world.policy, world.context())
    with torch.no_grad():
        logp = (model(input_ids=torch.tensor([row.token_ids])).logits[0].double() / temperature).log_softmax(-1)
    return [float(logp[at - 1, row.token_ids[at]]) for at in range(row.steps[1].start, len(row.token_ids))]


@pytest.mark.parametrize("several", [False, True], ids=["one step", "two steps"])
@pytest.mark.parametrize("plant", ["temperature", "top-p", "stale weights"])
def test_a_sampler_with_another_distribution(world: World, plant: str, several: bool) -> None:
    """Row 3: found before any step, with the rollouts saved and no policy written."""
    rows = []
    for row in world.rollouts:
        if plant == "temperature":
            values = _at_temperature(world, row, 0.7)
        elif plant == "top-p":
            # Sampling inside a mass of 0.9 raises every log-probability by -log 0.9.
            values = [min(0.0, p - float(np.log(0.9))) for p in row.behaviour_logprobs]
        else:
            model = tiny_llama(seed=1)
            model.save_pretrained(world.root / "stale")
            stale = dataclasses.replace(world, policy=Policy(world.root / "stale", "stale"))
            values = _at_temperature(stale, row, 1.0)
        rows.append(dataclasses.replace(row, behaviour_logprobs=values))
    world.rollouts = rows
    with pytest.raises(NumericsError, match="sampler"):
        world.update(PolicyGradientConfig(epochs=2 if several else 1))
    assert len(pq.read_table(world.root / "scratch" / "bad-batch" / "rollouts.parquet")) > 0
    assert not any((world.root / "run1" / "policy").iterdir())


def _replayed(world: World, groups: str, policy: str, shift: float) -> None:
    """Let `policy` have made the rollouts of the groups, with log-probabilities `shift` below the trainer's."""
    world.rollouts = [
        dataclasses.replace(r, policy=policy, behaviour_logprobs=[p - shift for p in r.behaviour_logprobs])
        if r.group_id[1:] in groups
        else r
        for r in world.rollouts
    ]


@pytest.mark.parametrize("several", [False, True], ids=["one step", "two steps"])
@pytest.mark.parametrize("groups", ["01", "0123"], ids=["half", "all"])
def test_rows_of_older_policies_are_corrected_and_raise_no_alarm(world: World, groups: str, several: bool) -> None:
    """Row 34: of rows with rho = e, half or all of a batch, each counts twice (the truncated weight), and no sampler is blamed."""
    _replayed(world, groups, "older", 1.0)
    _, metrics = world.update(PolicyGradientConfig(epochs=2 if several else 1))
    assert metrics["mismatch/older_abs_mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["mismatch/older_share_over"] == 1.0  # e is above the bound of 2
    assert metrics.get("mismatch/abs_mean", 0.0) < 1e-4
    assert ("mismatch/abs_mean" in metrics) == (groups == "01")


def test_a_few_rows_of_the_policy_itself_still_raise_the_alarm(world: World) -> None:
    """Row 34: a group with the wrong log-probabilities is found among three replayed ones."""
    world.scored(lambda row: float(row.rollout_id[-1] in "01"))
    _replayed(world, "012", "older", 0.0)
    _replayed(world, "3", "digest0", 0.06)
    with pytest.raises(NumericsError, match=r"mean 0\.06"):
        world.update(PolicyGradientConfig())


def test_broken_weights(world: World) -> None:
    model = tiny_llama()
    model.model.norm.weight.data[0] = torch.nan
    model.save_pretrained(world.root / "broken")
    world.policy = Policy(world.root / "broken", "digest0")
    with pytest.raises(NumericsError, match="batch saved"):
        world.update(PolicyGradientConfig())


@pytest.mark.parametrize("plant", ["loss", "gradient"])
def test_numbers_that_are_not_finite(world: World, monkeypatch: pytest.MonkeyPatch, plant: str) -> None:
    original = losses.token_loss

    def planted(config: Any, logp: Any, log_w: Any, advantage: Any) -> Any:
        loss = original(config, logp, log_w, advantage)
        # The square root of 0 is finite and its derivative is not.
        return loss * torch.inf if plant == "loss" else loss + (logp - logp).sqrt()

    monkeypatch.setattr(losses, "token_loss", planted)
    with pytest.raises(NumericsError, match=plant):
        world.update(PolicyGradientConfig())
    rollouts = pq.read_table(world.root / "scratch" / "bad-batch" / "rollouts.parquet")
    scores = pq.read_table(world.root / "scratch" / "bad-batch" / "scores.parquet")
    assert rollouts["rollout_id"].to_pylist() == scores["rollout_id"].to_pylist() != []
    assert not any((world.root / "run1" / "policy").iterdir())


def test_a_resume_without_the_optimiser(world: World) -> None:
    world.step = 1
    with pytest.raises(LedgerError):
        world.update(PolicyGradientConfig())


def test_a_resume_with_half_a_state(world: World) -> None:
    from safetensors.torch import load_file, save_file

    outs, _ = world.update(PolicyGradientConfig(lr=1e-3))
    world.advance(outs)
    assert world.trainer is not None
    file = world.trainer.path / "optimizer.safetensors"
    tensors = load_file(file)
    tensors.popitem()
    save_file(tensors, file)
    with pytest.raises(LedgerError, match="moments"):
        world.update(PolicyGradientConfig(lr=1e-3))


def test_a_batch_that_does_not_fit_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 6: refused before a weight is loaded, with the prediction and what to change."""
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    resident = Resident()
    with pytest.raises(ConfigError, match="micro_batch_tokens"):
        world.update(PolicyGradientConfig(), resident)
    assert not list(resident)
    world.update(PolicyGradientConfig(allow_over_memory=True, lr=1e-5))


def test_every_error_says_what_to_do(world: World) -> None:
    world.scores = world.scores[:-1]
    with pytest.raises(InstarError) as caught:
        world.update(PolicyGradientConfig())
    assert "do:" in caught.value.render() and caught.value.where
