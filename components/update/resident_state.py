"""What an update keeps in memory: the frozen model of a KL term, and the trainer state, with when the next update may go on from it
instead of from its files."""

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
    """A trainer state in memory: `tensors`, `base` and `masters` as in the files, for this policy as it was at `versions`."""

    model: weakref.ref[Any]
    versions: tuple[int, ...]
    tensors: dict[str, Tensor]
    base: dict[str, Tensor]
    masters: Any

    def fits(self, model: Any) -> bool:
        """Whether `model` is the one that was trained, and nothing has written to it since."""
        return model is self.model() and versions(model) == self.versions


TRAINER: Kind[ResidentTrainerState] = Kind("trainer")
"""The state that the next update of this process goes on from."""
REFERENCE: Kind[Any] = Kind("reference", newest=1)
"""The frozen model of a KL term, kept for the reference policy in the type that it computes in."""


def take_resident(
    saved: TrainerState | None, model: Any, record: dict[str, Any] | None, ctx: Context
) -> ResidentTrainerState | None:
    """Return what is in memory of a state and forget it; None when its files are to be read.

    A state that was only ever in memory and is not there any more, or whose model was changed, is a `LedgerError`.
    """
    if saved is None or record is None:
        return None
    resident = ctx.resident.take(TRAINER, saved.digest)
    # A policy that was not stepped may have been read again: then its weights say whose state this is.
    if resident is not None and (resident.fits(model) or fingerprint(model) == record["fingerprint"]):
        return resident
    if record.get("resident"):
        raise broken(
            "the optimiser state that an earlier inner step left in this process",
            "none" if resident is None else "one of other weights",
            saved,
            "run the segment again from its beginning: only its last step writes the state",
        )
    return None


def take_masters(model: Any, masters: dict[str, Tensor], saved: TrainerState) -> None:
    """Replace the weights of a policy by the finer ones it was rounded from; others, or none, are a `LedgerError`."""
    named = dict(model.named_parameters())
    if {k: p.shape for k, p in named.items()} != {k: v.shape for k, v in masters.items()} or not all(
        torch.equal(masters[name].to(p), p) for name, p in named.items()
    ):
        raise broken("float32 weights that round to this policy", "others" if masters else "none", saved)
    for name, p in named.items():
        p.data = masters[name].clone()  # mapped files start at odd addresses, where some products round differently


def versions(model: Any) -> tuple[int, ...]:
    """Return how often each parameter was written to in place."""
    return tuple(p._version for p in model.parameters())


def broken(
    expected: str, found: str, saved: TrainerState | None, action: str = "restore policy and trainer of the same step"
) -> LedgerError:
    """Return the error of a trainer state that cannot be continued."""
    where = f"trainer {saved.digest or saved.path}" if saved else "trainer"
    return LedgerError(expected=expected, found=found, where=where, action=action)
