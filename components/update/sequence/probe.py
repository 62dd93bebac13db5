"""What an update measures on a few windows of its batch: the loss of each arm, and what the refined target does.

Shapes: M windows of the batch, P probed ones.
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
    """Return about `count` of the windows whose arms are `arm` [M], at even distances within each arm, in slot order.

    Every arm has an equal share, an arm with fewer windows leaves the rest to the others, and none has less than one.
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
    """Return the loss of each window of `rows` [P] against the targets of this update. Raises `NumericsError`."""
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
            action="look at the data; lower the learning rate",
        )
    return values


def gradient_cosine(model: ContinuousPolicy, samples: Samples, rows: Integers) -> float | None:
    """Return the cosine between the gradients of the action term with the refined and with the logged targets.

    1 says that the refinement only rescales the gradient, as it does while the learner still is the past policy: so it is
    measured after the update. None where a gradient vanishes.
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
