"""Arguments of the selected log-probability and its comparison with the reference, for the cases of the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.children import close
from instar.kernels.logprob import reference
from instar.kernels.logprob.triton_logprob import selected_logprob

Case = tuple[Tensor, Tensor, Tensor | None, Tensor]
SLICE = 128


def inputs(
    m: int, h: int, v: int, device: str, *, bias: bool = True, frozen: bool = False, dtype: torch.dtype = torch.float32
) -> Case:
    """Return hidden states, head, bias and targets; logits have a standard deviation of about 3."""
    g = torch.Generator().manual_seed(m * 1000 + v)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    hidden = normal(m, h).to(dtype).to(device).requires_grad_()
    weight = (3 * normal(v, h) / h**0.5).to(dtype).to(device).requires_grad_(not frozen)
    b = normal(v).to(dtype).to(device).requires_grad_(not frozen) if bias else None
    return hidden, weight, b, torch.randint(0, v, (m,), generator=g).to(device)


def gradients(
    case: Case, values: tuple[Tensor, Tensor], *, use_logp: bool = True, use_entropy: bool = True
) -> list[Tensor]:
    """Return gradients of whatever is trained, for random gradients of the two results."""
    g = torch.Generator().manual_seed(3)
    loss = torch.zeros((), device=values[0].device)
    for value, used in zip(values, (use_logp, use_entropy), strict=True):
        up = torch.randn(value.shape, generator=g, dtype=torch.float64).to(value)
        loss = loss + (value * up).sum() if used else loss
    return list(torch.autograd.grad(loss, [x for x in case[:3] if x is not None and x.requires_grad]))


def exact(case: Case) -> Case:
    hidden, weight, bias, targets = (None if x is None else x.detach().cpu() for x in case)
    assert hidden is not None and weight is not None and targets is not None
    trained = case[1].requires_grad
    return (
        hidden.double().requires_grad_(),
        weight.double().requires_grad_(trained),
        None if bias is None else bias.double().requires_grad_(trained),
        targets,
    )


def compare(
    case: Case, tolerance: float, *, least: float = 1e-6, use_logp: bool = True, use_entropy: bool = True
) -> None:
    """Assert results and gradients equal to the definition in float64."""
    truth = exact(case)
    ours, theirs = selected_logprob(*case, SLICE), reference.selected_logprob(*truth)
    assert ours[0].dtype == ours[1].dtype == torch.float32
    found = gradients(case, ours, use_logp=use_logp, use_entropy=use_entropy)
    expected = gradients(truth, theirs, use_logp=use_logp, use_entropy=use_entropy)
    names = ("logp", "entropy", "dhidden", "dweight", "dbias")
    for name, a, b in zip(names, (*ours, *found), (*theirs, *expected), strict=False):
        close(a.cpu(), b, tolerance, name, least)
    assert len(found) == len(expected) and all(a.dtype == case[0].dtype for a in found)
