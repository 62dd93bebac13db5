"""Measures a few windows of the batch: the loss of each arm, and how much the mixed targets change the gradient.

Shapes: M windows of the batch, P windows that are probed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from instar.components.continuous.model import ContinuousPolicy
from instar.components.trajectories import Doubles, Integers
from instar.components.update.sequence.losses import Weights, action_loss, window_losses
from instar.components.update.sequence.samples import Samples
from instar.contract import Context
from instar.errors import NumericsError

CHUNK = 256
"""Windows of one forward pass."""


def choose(arm: Integers, num_arms: int, count: int) -> Integers:
    """Return about `count` windows, in slot order. `arm` [M] is the arm of each window.

    Every arm has an equal share, at even distances, and at least one window. An arm with fewer windows than its share leaves the
    rest to the others.
    """
    members = [np.flatnonzero(arm == a) for a in range(num_arms)]
    left, chosen = count, []
    for position, a in enumerate(sorted(range(num_arms), key=lambda a: (len(members[a]), a))):
        take = max(1, min(len(members[a]), left // (num_arms - position)))
        left -= take
        chosen.append(spread(members[a], take))
    return np.sort(np.concatenate(chosen))


def spread(values: Integers, count: int) -> Integers:
    """Return at most `count` of the values, at even distances."""
    count = min(count, len(values))
    return values[np.arange(count) * len(values) // count]


@torch.no_grad()
def losses(model: ContinuousPolicy, samples: Samples, rows: Integers, weights: Weights, ctx: Context) -> Doubles:
    """Return the loss of each window of `rows` [P] with the targets of this update. One that is not finite is a `NumericsError`."""
    parts: list[Tensor] = []
    for start in range(0, len(rows), CHUNK):
        sample = samples.take(torch.from_numpy(rows[start : start + CHUNK]).to(samples.device))
        parts.append(window_losses(model(*sample.inputs()), sample, weights)["loss"].cpu())
        ctx.heartbeat(f"loss of {start + len(sample.mask)} windows", {})
    values = np.asarray(torch.cat(parts).double().numpy())
    if not np.isfinite(values).all():
        raise NumericsError(
            expected="a finite loss of every probed window",
            found=f"{int((~np.isfinite(values)).sum())} that are not",
            where="update.probe",
            action="look at the data, or lower update.lr",
        )
    return values


def gradient_cosine(model: ContinuousPolicy, samples: Samples, rows: Integers) -> float | None:
    """Return the cosine between two gradients of the action term: with the mixed targets, and with the logged actions.

    A cosine of 1 says that mixing only rescales the gradient. That is always so while the learner is still the past policy, so
    the cosine is measured after the update. If a gradient is 0, it is None.
    """
    sample = samples.take(torch.from_numpy(rows).to(samples.device))
    out = model(*sample.inputs())
    parameters = [p for p in model.parameters() if p.requires_grad]
    refined, plain = (
        torch.autograd.grad(action_loss(out, sample, target), parameters, retain_graph=True, allow_unused=True)
        for target in (sample.target, sample.logged)
    )
    a, b = (torch.cat([g.double().flatten() for g in grads if g is not None]) for grads in (refined, plain))
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else None
