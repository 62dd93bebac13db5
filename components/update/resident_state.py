"""What an update leaves in memory for the next: the trainer state, and the frozen reference model of a KL term.

The next update may use the state in memory in place of its files if the model is still the one that was trained.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instar.artifact import TrainerState
from instar.components.policy_io import fingerprint
from instar.contract import Context
from instar.errors import LedgerError
from instar.resident import Kind


@dataclass(frozen=True, kw_only=True)
class ResidentTrainerState:
    """A trainer state in memory. `tensors`, `base` and `masters` are what its files would hold.

    It belongs to `model`. `versions` count how often each parameter had been written to, so a later change is noticed.
    """

    model: weakref.ref[Any]
    versions: tuple[int, ...]
    tensors: dict[str, Tensor]
    base: dict[str, Tensor]
    masters: Any

    def fits(self, model: Any) -> bool:
        """Whether `model` is the one that was trained, unchanged since then."""
        return model is self.model() and versions(model) == self.versions


TRAINER: Kind[ResidentTrainerState] = Kind("trainer")
"""The state that the next update of this process continues from."""
REFERENCE: Kind[Any] = Kind("reference", newest=1)
"""The frozen model of a reference policy, in the number type in which it computes. There is one at most."""


def take_resident(
    saved: TrainerState | None, model: Any, record: dict[str, Any] | None, ctx: Context
) -> ResidentTrainerState | None:
    """Return the state in memory and forget it. None means that its files must be read.

    Some states were only in memory. If such a state is gone, or its model was changed, raise `LedgerError`.
    """
    if saved is None or record is None:
        return None
    resident = ctx.resident.take(TRAINER, saved.digest)
    # If no step was taken, the policy may have been loaded a second time. Then equal weights show that the state is its own.
    if resident is not None and (resident.fits(model) or fingerprint(model) == record["fingerprint"]):
        return resident
    if record.get("resident"):
        raise broken(
            "the optimiser state that an earlier inner step left in this process",
            "none" if resident is None else "a state of other weights",
            saved,
            "run the segment again from its beginning: only its last step writes the state",
        )
    return None


def take_masters(model: Any, masters: dict[str, Tensor], saved: TrainerState) -> None:
    """Replace the weights of a policy by the float32 weights that it was rounded from.

    If `masters` do not round to the policy's weights, raise `LedgerError`.
    """
    named = dict(model.named_parameters())
    if {k: p.shape for k, p in named.items()} != {k: v.shape for k, v in masters.items()} or not all(
        torch.equal(masters[name].to(p), p) for name, p in named.items()
    ):
        raise broken("float32 weights that round to this policy", "others" if masters else "none", saved)
    for name, p in named.items():
        p.data = masters[name].clone()  # a mapped file begins at an odd address, where some products round differently


def versions(model: Any) -> tuple[int, ...]:
    """Return how often each parameter was written to in place."""
    return tuple(p._version for p in model.parameters())


def broken(
    expected: str, found: str, saved: TrainerState | None, action: str = "restore policy and trainer of the same step"
) -> LedgerError:
    """Return the error for a trainer state from which no update can continue."""
    where = f"trainer {saved.digest or saved.path}" if saved else "trainer"
    return LedgerError(expected=expected, found=found, where=where, action=action)
