"""Acting step by step gives what the parallel form gives, at constant work, for every policy alike."""

from __future__ import annotations

import pytest
import torch

from instar.errors import ContractError
from unit.continuous.cases import ARCHS, TASK, episode, mamba, policy, run, transformer, window

CARRIED = [name for name in ARCHS if name != "transformer"]


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_steps_equal_the_parallel_form(name: str, kind: torch.dtype, tolerance: float) -> None:
    model, w = policy(ARCHS[name], kind=kind), window(3, 6, kind=kind)
    parallel = model.units.to_box(run(model, w).actions)
    torch.testing.assert_close(episode(model, w), parallel, rtol=0, atol=tolerance)
    torch.testing.assert_close(episode(model, w, re_read=True), parallel, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CARRIED)
def test_carried_state_remembers_the_whole_episode(name: str) -> None:
    """30 steps with a window of 6: equal to the parallel form over all 30, and the state keeps its size."""
    model, w = policy(ARCHS[name]), window(2, 30)
    parallel = model.units.to_box(run(model, w).actions)
    torch.testing.assert_close(episode(model, w), parallel, rtol=0, atol=1e-12)
    state = model.init_state(2)
    shapes = {k: v.shape for k, v in state.tensors.items()}
    for t in range(3):
        _, state = model.step(
            state, w.returns[:, t], w.states[:, t], w.actions[:, t - 1] if t else None, w.timesteps[:, t]
        )
        assert {k: v.shape for k, v in state.tensors.items()} == shapes


@pytest.mark.parametrize("name", ["two_mixers", "shared_gate", "transformer"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_window_state_re_reads_the_last_steps(name: str, steps: int) -> None:
    arch = transformer(steps) if name == "transformer" else mamba(steps, fusion=name)
    model, w = policy(arch), window(2, 9)
    acted = episode(model, w, re_read=True)
    for t in range(9):
        last = w.steps(slice(max(0, t - steps + 1), t + 1))
        torch.testing.assert_close(acted[:, t], model.act_window(*last.args()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ARCHS)
def test_a_reset_row_starts_over_and_others_go_on(name: str) -> None:
    model, w = policy(ARCHS[name]), window(3, 6)
    plain = episode(model, w)
    state = model.init_state(3)
    for t in range(3):
        previous = w.actions[:, t - 1] if t else None
        _, state = model.step(state, w.returns[:, t], w.states[:, t], previous, w.timesteps[:, t])
    state = state.reset(torch.tensor([False, True, False]))
    for t in range(3, 6):  # row 1 walks through its first three steps again; its previous action is that of its past
        step, previous = torch.tensor([t, t - 3, t]), torch.tensor([t - 1, max(t - 4, 0), t - 1])
        rows = torch.arange(3)
        acted, state = model.step(
            state, w.returns[rows, step], w.states[rows, step], w.actions[rows, previous], w.timesteps[rows, step]
        )
        torch.testing.assert_close(acted, plain[rows, step], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ARCHS)
def test_rows_can_be_dropped(name: str) -> None:
    model, w = policy(ARCHS[name]), window(3, 6)
    plain = episode(model, w)
    _, state = model.step(model.init_state(3), w.returns[:, 0], w.states[:, 0], None, w.timesteps[:, 0])
    kept = state.select(torch.tensor([2, 0]))
    v = w.rows([2, 0])
    acted, _ = model.step(kept, v.returns[:, 1], v.states[:, 1], v.actions[:, 0], v.timesteps[:, 1])
    torch.testing.assert_close(acted, plain[[2, 0], 1], rtol=0, atol=1e-12)


def test_the_released_grouping_re_reads_windows() -> None:
    model = policy(mamba(6, grouping="released"))
    assert model.init_state(2).kind == "window"
    w = window(2, 6)
    assert torch.equal(episode(model, w)[:, -1], model.act_window(*w.args()))


@pytest.mark.parametrize("grouping", ["shifted", "released"])
def test_the_slot_of_the_asked_action_is_not_read(grouping: str) -> None:
    model, w = policy(mamba(6, grouping=grouping)), window(2, 6)
    before = model.act_window(*w.args())
    w.actions[:, -1] = torch.tensor([1.9, 0.9], dtype=torch.float64)
    assert torch.equal(before, model.act_window(*w.args()))


def test_actions_lie_in_the_box() -> None:
    """Also with a saturated head, and in float32 where the middle plus the half may round beyond the corner."""
    for arch in ARCHS.values():
        model = policy(arch, kind=torch.float32)
        weights = dict(model.named_parameters())
        weights["action.bias" if "action.bias" in weights else "heads.action.bias"].data.fill_(50.0)
        acted = episode(model, window(2, 4, kind=torch.float32))
        assert torch.equal(acted, torch.tensor(TASK.action_high).expand_as(acted))


def test_steps_build_no_graph() -> None:
    model, w = policy(ARCHS["two_mixers"]), window(1, 6)
    acted, state = model.step(model.init_state(1), w.returns[:, 0], w.states[:, 0], None, w.timesteps[:, 0])
    assert not acted.requires_grad
    assert not any(x.requires_grad for x in state.tensors.values())


def test_the_first_step_alone_may_come_without_a_previous_action() -> None:
    for name in ("two_mixers", "transformer", "bc"):
        model, w = policy(ARCHS[name]), window(2, 6)
        _, state = model.step(model.init_state(2), w.returns[:, 0], w.states[:, 0], None, w.timesteps[:, 0])
        with pytest.raises(ContractError, match="previous_actions"):
            model.step(state, w.returns[:, 1], w.states[:, 1], None, w.timesteps[:, 1])
        with pytest.raises(ContractError, match="states"):
            model.step(state, w.returns[:, 1], w.states[:1, 1], w.actions[:, 0], w.timesteps[:, 1])
        if name != "bc":
            with pytest.raises(ContractError, match="max_timestep"):
                model.step(state, w.returns[:, 1], w.states[:, 1], w.actions[:, 0], w.timesteps[:, 1] + 39)
