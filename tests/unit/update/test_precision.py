"""bfloat16 arithmetic over float32 weights, the number of forward passes, and recomputation: what each may change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from instar.components.policy_io import MODEL, fingerprint, load_model
from instar.components.update import forward, learner, measure, policy_gradient
from instar.components.update.batching import Micro
from instar.components.update.config import LoraConfig, PolicyGradientConfig
from instar.components.update.presets import preset
from instar.errors import LedgerError
from instar.resident import Resident
from unit.update.world import World, make_world, save_model, tiny_llama, weights


def _gradients(world: World, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, torch.Tensor]:
    """Return the float32 gradients that an update hands to the optimiser, before the norm is clipped."""
    found: dict[str, torch.Tensor] = {}
    original = learner.Learner.step

    def step(self: learner.Learner) -> float:
        found.update({name: p.grad.clone() for name, p in self.trained() if p.grad is not None})
        return original(self)

    monkeypatch.setattr(learner.Learner, "step", step)
    world.update(PolicyGradientConfig(lr=1e-6, **changes))
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("packing", ["none", "prefix"])
@pytest.mark.parametrize("budget", [30, 4096])
def test_bfloat16_gradients_are_those_of_float32(
    world: World, monkeypatch: pytest.MonkeyPatch, packing: Any, budget: int
) -> None:
    exact = _gradients(world, monkeypatch, packing=packing)
    half = _gradients(world, monkeypatch, packing=packing, dtype="bfloat16", micro_batch_tokens=budget)
    assert exact.keys() == half.keys() and {g.dtype for g in half.values()} == {torch.float32}
    one, two = (torch.cat([g.flatten() for g in side.values()]) for side in (exact, half))
    assert float((one - two).norm() / one.norm()) < 0.05
    assert float(torch.nn.functional.cosine_similarity(one, two, dim=0)) > 0.998


def test_small_updates_survive_in_the_masters(world: World) -> None:
    """A learning rate under half a bfloat16 step moves the policy; in bfloat16 weights it would be rounded away."""
    world.policy = save_model(tiny_llama().bfloat16(), world.root / "half", "digest0")
    outs, _ = world.update(PolicyGradientConfig(lr=1e-5, dtype="bfloat16"))
    before, after, masters = weights(world.policy), weights(outs.policy), masters_of(outs)
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (masters[name] - before[name].float()).abs()
    assert float(moved.max()) == pytest.approx(1e-5, rel=0.1)
    assert float((after[name] == before[name]).double().mean()) > 0.95
    world.advance(outs)
    outs, _ = world.update(PolicyGradientConfig(lr=1e-5, dtype="bfloat16"))
    assert float((masters_of(outs)[name] - before[name].float()).abs().max()) > 1.5e-5


def masters_of(outs: Any) -> dict[str, torch.Tensor]:
    return load_file(outs.trainer.path / "masters.safetensors")


@pytest.mark.parametrize("lora", [None, LoraConfig(r=2, alpha=4)])
def test_what_is_published_is_what_was_trained_in(world: World, lora: LoraConfig | None) -> None:
    """A float32 policy, too: whoever loads the next one in its own type gets the weights of the forward passes."""
    resident = Resident()
    outs, _ = world.update(PolicyGradientConfig(lr=1e-2, dtype="bfloat16", lora=lora), resident)
    found = load_model(outs.policy, world.context())
    model = resident.waiting(MODEL, outs.policy)
    assert model is not None
    assert found.dtype == model.dtype == torch.bfloat16
    assert fingerprint(found) == fingerprint(model) == outs.trainer.read_json("trainer.json")["fingerprint"]
    assert (outs.trainer.path / "masters.safetensors").is_file() == (lora is None)
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())
    for name, value in (masters_of(outs) if lora is None else {}).items():
        assert value.dtype == torch.float32 and torch.equal(value.bfloat16(), model.get_parameter(name)), name


@pytest.mark.parametrize("fault", ["one bit", "a missing matrix", "no file"])
def test_masters_that_do_not_round_to_the_policy_are_refused(world: World, fault: str) -> None:
    config = PolicyGradientConfig(lr=1e-2, dtype="bfloat16")
    outs, _ = world.update(config)
    world.advance(outs)
    file, masters = outs.trainer.path / "masters.safetensors", masters_of(outs)
    name = min(masters)
    masters[name].view(-1)[0] += masters[name].view(-1)[0].abs() / 64  # a bfloat16 number has 8 bits
    if fault == "a missing matrix":
        del masters[name]
    save_file(masters, file)
    if fault == "no file":
        file.unlink()
    with pytest.raises(LedgerError, match="float32 weights that round to this policy"):
        world.update(config)


def test_a_first_step_without_signal_keeps_a_float32_policy(world: World) -> None:
    """Nothing was trained, so nothing is rounded; the step after it starts from the same weights, in memory or from files."""
    config = PolicyGradientConfig(lr=1e-2, dtype="bfloat16")
    digests = []
    for resident in (Resident(), None):
        one = make_world(world.root / f"{resident is None}")
        one.scored(lambda row: 1.0)
        outs, _ = one.update(config, resident)
        assert weights(outs.policy).keys() == weights(one.policy).keys()
        assert {value.dtype for value in weights(outs.policy).values()} == {torch.float32}
        one.advance(outs, resident)
        one.scored(lambda row: float(row.rollout_id[-1] in "02"))
        outs, metrics = one.update(config, resident)
        assert metrics["updates"] == 1
        digests.append(fingerprint(load_model(outs.policy, one.context())))
    assert digests[0] == digests[1]


def test_rows_attend_as_loaded_afterwards(world: World) -> None:
    """Short rows use plain products while they train; whoever shares the copy must find the model's own attention."""
    resident = Resident()
    outs, _ = world.update(PolicyGradientConfig(lr=1e-2, dtype="bfloat16"), resident)
    copy = resident.waiting(MODEL, outs.policy)
    assert copy is not None
    assert copy.config._attn_implementation == "sdpa"
    model = tiny_llama(dtype=torch.bfloat16)
    assert forward.attend(model, forward.EAGER_WIDTH) == model.config._attn_implementation == "eager"
    assert forward.attend(model, forward.EAGER_WIDTH + 1) == model.config._attn_implementation == "sdpa"
    assert forward.attend(tiny_llama(), 8) == "sdpa"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputation_changes_no_bit(world: World, dtype: Any) -> None:
    files = []
    for choice in ("off", "on"):
        outs, _ = world.update(PolicyGradientConfig(lr=1e-3, dtype=dtype, gradient_checkpointing=choice))  # type: ignore[arg-type]
        files.append((outs.policy.path / "model.safetensors").read_bytes())
    assert files[0] == files[1]


COUNTS: dict[str, tuple[dict[str, Any], int, int]] = {
    # changes, passes of the policy, of the reference; every minibatch is one pass
    "on-policy": ({}, 1, 0),
    "two minibatches": ({"minibatches": 2}, 4, 0),
    "two epochs": ({"epochs": 2}, 3, 0),
    "KL in the loss": ({"kl": preset("grpo").kl}, 1, 1),
    "KL in the reward": ({"kl": preset("rloo").kl}, 2, 1),
}


@pytest.mark.parametrize("name", COUNTS)
def test_no_pass_that_the_algorithm_does_not_need(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Old log-probabilities cost a pass only where a step comes before their use; the reference only with a KL term."""
    changes, policy, reference = COUNTS[name]
    other = tiny_llama(seed=1)
    world.reference = save_model(other, world.root / "reference", "reference")
    world.scored(lambda row: float(row.rollout_id[-1] in "02"))  # a signal in every group
    seen: list[bool] = []
    original = forward.score

    def counted(model: Any, micro: Micro, config: PolicyGradientConfig) -> forward.Scored:
        seen.append(torch.equal(model.lm_head.weight, other.lm_head.weight))
        return original(model, micro, config)

    for module in (measure, policy_gradient):
        monkeypatch.setattr(module, "score", counted)
    _, metrics = world.update(PolicyGradientConfig(lr=1e-5, **changes))
    assert metrics["updates"] == changes.get("minibatches", 1) * changes.get("epochs", 1)
    assert (seen.count(False), seen.count(True)) == (policy, reference)


def test_the_layout_is_checked_once_per_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = forward._alone
    monkeypatch.setattr(forward, "_alone", lambda *args: calls.append(1) or original(*args))
    resident = Resident()
    config = PolicyGradientConfig(lr=1e-4, packing="prefix")
    outs, _ = world.update(config, resident)
    first = len(calls)
    world.advance(outs, resident)
    world.update(config, resident)
    assert first > 0 and len(calls) == first
    world.update(PolicyGradientConfig(lr=1e-4, packing="sequence"), resident)
    assert len(calls) > first
