"""No action prediction depends on its own target or on anything later; the published grouping breaks exactly this."""

from __future__ import annotations

import pytest
import torch

from instar.components.continuous.config import Arch
from unit.continuous.cases import ARCHS, first_layer, group_map, mamba, policy, run, transformer, window


def dependence(arch: Arch, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, as [K, K] bool, whether the prediction of step t has a gradient for action, state, return of step u."""
    model, w = policy(arch), window(1, steps)
    inputs = [x.requires_grad_() for x in (w.actions, w.states, w.returns)]
    actions = run(model, w).actions
    rows = []
    for t in range(steps):
        grads = torch.autograd.grad(actions[0, t].sum(), inputs, retain_graph=True, materialize_grads=True)
        rows.append([(g[0].reshape(steps, -1) != 0).any(1) for g in grads])
    a, s, r = (torch.stack(x) for x in zip(*rows, strict=True))
    return a, s, r


CAUSAL = {
    **{
        f"{fusion}-{layers}-{steps}": mamba(steps, layers, fusion=fusion)
        for fusion in ("two_mixers", "shared_gate")
        for layers in (2, 3)
        for steps in (1, 2, 5, 20)
    },
    "coarse": mamba(7, fine=False),
    "coarse_shared": mamba(7, fine=False, fusion="shared_gate"),
    "one_tap": mamba(7, conv=1),
    "transformer": transformer(7),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_an_action_depends_on_the_past_alone(name: str) -> None:
    arch = CAUSAL[name]
    steps = arch.window
    actions, states, returns = dependence(arch, steps)
    now = torch.ones(steps, steps, dtype=torch.bool).tril()
    assert torch.equal(actions, now.tril(-1))  # every earlier action, not its own, nothing later
    assert torch.equal(states, now)
    assert torch.equal(returns, now)


def test_changed_later_tokens_leave_the_same_bits() -> None:
    for fusion in ("two_mixers", "shared_gate"):
        model, w = policy(mamba(8, fusion=fusion)), window(2, 8)
        before = run(model, w).actions
        w.actions[:, 4:] += 1.0
        w.states[:, 5:] -= 3.0
        w.returns[:, 5:] *= 2.0
        w.timesteps[:, 5:] += 7
        after = run(model, w).actions
        assert torch.equal(before[:, :5], after[:, :5])
        assert not torch.equal(before[:, 5], after[:, 5])


@pytest.mark.parametrize(("layers", "leaks", "ahead"), [(1, 10, 10), (2, 19, 19)])
@pytest.mark.parametrize("fusion", ["two_mixers", "shared_gate"])
def test_the_released_grouping_shows_the_target(fusion: str, layers: int, leaks: int, ahead: int) -> None:
    """With one layer: group p mod K of position p = 3t + 1 reaches a_t where (3t + 1) mod 20 >= t, 10 times below 19."""
    by_hand = sum((3 * t + 1) % 20 >= t for t in range(19))
    assert by_hand == 10
    actions, states, returns = dependence(mamba(20, layers, fusion=fusion, grouping="released"), 20)
    own = actions.diagonal()
    assert int(own.sum()) == leaks
    assert not own[-1]  # only the last action of a window is blanked
    later = (actions.triu(1) | states.triu(1) | returns.triu(1)).any(1)
    assert int(later.sum()) == ahead


def test_the_shifted_group_ends_before_its_action() -> None:
    """Group t = (a_{t-1}, R_t, s_t), zero in front: with tokens 1..9 that is (0, 1, 2), (3, 4, 5), (6, 7, 8)."""
    layer = first_layer(policy(mamba(3, width=1, expand=4)))
    group_map(layer).weight.data = torch.tensor([[100.0, 10.0, 1.0]], dtype=torch.float64)
    group_map(layer).bias.data.zero_()
    tokens = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 9, 1)
    assert layer.groups(tokens, None, False).flatten().tolist() == [12.0, 345.0, 678.0]
    spread = layer.spread(torch.tensor([[[1.0], [2.0], [3.0]]]), None)
    assert spread.flatten().tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    mask = torch.tensor([[0.0] * 3 + [1.0] * 6], dtype=torch.float64)
    group_map(layer).bias.data.fill_(0.5)
    assert layer.groups(tokens * mask[..., None], mask, False).flatten().tolist() == [0.0, 45.5, 678.5]


def test_the_released_group_holds_its_action() -> None:
    layer = first_layer(policy(mamba(3, width=1, expand=4, grouping="released")))
    group_map(layer).weight.data = torch.tensor([[100.0, 10.0, 1.0]], dtype=torch.float64)
    group_map(layer).bias.data.zero_()
    tokens = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(1, 9, 1)
    assert layer.groups(tokens, None, False).flatten().tolist() == [123.0, 456.0, 780.0]
    spread = layer.spread(torch.tensor([[[1.0], [2.0], [3.0]]]), None)
    assert spread.flatten().tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("fusion", ["two_mixers", "shared_gate"])
def test_the_fine_scan_matters_and_reads_no_own_action(fusion: str) -> None:
    model, w = policy(mamba(fusion=fusion)), window(1, 6)
    layer = first_layer(model)
    seen: list[torch.Tensor] = []
    group_map(layer).register_forward_hook(lambda *call: seen.append(torch.as_tensor(call[2])))
    before = run(model, w).actions
    w.actions[:, 3] += 1.0
    run(model, w)
    changed = (seen[0] != seen[1]).any(-1)[0].tolist()
    assert changed == [False, False, False, False, True, False]  # a_3 is in the group of step 4 alone
    w.actions[:, 3] -= 1.0
    group_map(layer).weight.data.zero_()
    assert not torch.allclose(before, run(model, w).actions)


def test_auxiliary_predictions_come_from_the_action_token() -> None:
    """The next state may depend on the step's own action, the action prediction may not; nothing sees later steps."""
    for name in ("two_mixers", "shared_gate", "coarse", "transformer"):
        model, w = policy(ARCHS[name]), window(1, 6)
        out = run(model, w)
        assert out.next_states is not None
        assert out.next_returns is not None
        assert out.next_states.shape == (1, 6, 3)
        assert out.next_returns.shape == (1, 6)
        w.actions[:, 2] += 0.5
        changed = run(model, w)
        assert changed.next_states is not None
        assert changed.next_returns is not None
        differs = (changed.next_states != out.next_states).any(-1) | (changed.next_returns != out.next_returns)
        assert differs[0].tolist() == [False, False, True, True, True, True]
        assert torch.equal(changed.actions[:, :3], out.actions[:, :3])


def test_without_auxiliary_heads_there_are_no_auxiliary_predictions() -> None:
    for name in ("linear", "bc"):
        out = run(policy(ARCHS[name]), window(1, 6))
        assert out.next_states is None
        assert out.next_returns is None


def test_cloning_reads_the_state_alone() -> None:
    model, w = policy(ARCHS["bc"]), window(1, 6)
    before = run(model, w).actions
    w.actions += 1.0
    w.returns += 1.0
    assert torch.equal(before, run(model, w).actions)
    w.states[:, 2] += 1.0
    assert (run(model, w).actions != before).any(-1)[0].tolist() == [False, False, True, False, False, False]
