"""What a process holds already of an update's plan is counted as free, once per storage."""

from __future__ import annotations

from typing import Any

import torch

from instar.components.update.memory import held_bytes


def test_shared_storage_counts_once_and_other_digests_not_at_all() -> None:
    model: Any = torch.nn.Linear(10, 10, bias=False)
    other: Any = torch.nn.Linear(10, 10, bias=False)
    resident = {
        ("model", "a"): model,
        ("model", "a", "float32"): model,
        ("reference", "r", "float32"): other,
        ("model", "b"): torch.nn.Linear(99, 99),
        "rollout/engine": (("config", "a"), model),
    }
    assert held_bytes(resident, ["a"], "cpu") == 400
    assert held_bytes(resident, ["a", "r", ""], "cpu") == 800
    assert held_bytes(resident, ["a"], "cuda") == 0 == held_bytes(resident, [""], "cpu")
