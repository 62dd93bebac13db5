"""What a process holds already of an update's plan is counted as free, once per storage."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch

from instar.artifact import Policy, TrainerState
from instar.components.policy_io import MODEL
from instar.components.rollout.engines import ENGINE
from instar.components.update.memory import held_bytes
from instar.components.update.resident_state import REFERENCE, TRAINER, ResidentTrainerState
from instar.resident import Resident


def linear(width: int) -> Any:
    return torch.nn.Linear(width, width, bias=False)


def test_shared_storage_counts_once_and_other_digests_not_at_all() -> None:
    model, resident = linear(10), Resident()
    a, r, b = (Policy(Path(name), name) for name in "arb")
    resident.put(MODEL, a, model)
    resident.put(REFERENCE, a, model)
    resident.put(REFERENCE, r, linear(10))
    resident.put(MODEL, b, linear(99))
    engine: Any = model
    resident.put(ENGINE, a, ("settings", engine))
    assert held_bytes(resident, ["a"], "cpu") == 400
    assert held_bytes(resident, ["a", "r", ""], "cpu") == 800
    assert held_bytes(resident, ["a"], "cuda") == 0 == held_bytes(resident, [""], "cpu")


def test_a_trainer_state_counts_with_its_masters_and_the_matrices_under_adapters() -> None:
    model, resident = linear(10), Resident()
    state = ResidentTrainerState(
        model=weakref.ref(model),
        versions=(0,),
        tensors={"exp_avg/weight": torch.zeros(3)},
        base={"weight": torch.zeros(5)},
        masters=model,
    )
    resident.put(TRAINER, TrainerState(Path("t"), "t"), state)
    assert held_bytes(resident, ["t"], "cpu") == 4 * (3 + 5) + 400
