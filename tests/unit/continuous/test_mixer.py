"""The mixer against an independent implementation with the same weights; the convolution against `conv1d`."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from instar.components.continuous.conv import causal_conv
from instar.components.continuous.mixer import Mixer


def random_mixer(width: int = 8, channels: int = 16, states: int = 4, taps: int = 4) -> Mixer:
    mixer = Mixer(width, channels, states, taps, math.ceil(width / 16)).double()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.5)
    return mixer


@pytest.mark.parametrize(("length", "taps"), [(1, 4), (2, 4), (3, 4), (9, 4), (9, 1), (5, 2)])
def test_the_convolution_is_that_of_conv1d(length: int, taps: int) -> None:
    g = torch.Generator().manual_seed(0)
    u, w, b = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, length, 6), (3, taps), (3,)))
    u = u[..., 1:4].detach().requires_grad_()  # strided, as a half of a projection is
    w, b = w.requires_grad_(), b.requires_grad_()
    expected = F.conv1d(F.pad(u.transpose(1, 2), (taps - 1, 0)), w[:, None], b, groups=3).transpose(1, 2)
    torch.testing.assert_close(causal_conv(u, w, b), expected)
    assert torch.autograd.gradcheck(causal_conv, (u, w, b))


def test_the_convolution_by_hand() -> None:
    """Inputs 1, 2, 3 with taps (10, 1) and bias 0.5: the last tap is the current step."""
    u = torch.tensor([[[1.0], [2.0], [3.0]]])
    y = causal_conv(u, torch.tensor([[10.0, 1.0]]), torch.tensor([0.5]))
    assert y.flatten().tolist() == [1.5, 12.5, 23.5]


def test_equals_the_mixer_of_transformers() -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=8, state_size=4, conv_kernel=4, expand=2, time_step_rank=1, num_hidden_layers=1)
    theirs = MambaMixer(config, layer_idx=0).double()
    ours = random_mixer()
    inner = ours.selective
    weights = {
        "in_proj.weight": ours.in_proj.weight,
        "conv1d.weight": inner.conv_weight[:, None],
        "conv1d.bias": inner.conv_bias,
        "x_proj.weight": inner.x_proj.weight,
        "dt_proj.weight": inner.dt_proj.weight,
        "dt_proj.bias": inner.dt_proj.bias,
        "A_log": inner.A_log,
        "D": inner.D,
        "out_proj.weight": ours.out_proj.weight,
    }
    theirs.load_state_dict(weights)
    x = torch.randn(2, 11, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(ours(x, None, None)[0], theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 7, 11])
def test_a_sequence_in_two_calls_is_one_sequence(cut: int) -> None:
    mixer = random_mixer()
    x = torch.randn(2, 11, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole, (conv, h) = mixer(x, None, None)
    fresh = (torch.zeros(2, 3, 16, dtype=torch.float64), torch.zeros(2, 16, 4, dtype=torch.float64))
    first, carried = mixer(x[:, :cut], None, fresh)
    second, (conv2, h2) = mixer(x[:, cut:], None, carried)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(conv2, conv)
    torch.testing.assert_close(h2, h)


def test_a_masked_step_leaves_the_state() -> None:
    mixer = random_mixer()
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    y, (_, h) = mixer(x * mask[..., None], mask, None)
    bare, (_, expected) = mixer(x[:, 2:], None, None)
    torch.testing.assert_close(y[:, 2:], bare)
    torch.testing.assert_close(h, expected)
    assert torch.equal(y[:, :2], torch.zeros(1, 2, 8, dtype=torch.float64))
