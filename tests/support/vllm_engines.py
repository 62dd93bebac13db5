"""Engines opened as a stage opens them, with the scratch folder of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instar.artifact import Policy
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engines import open_engine
from instar.contract import Context
from instar.resident import Resident

LENGTHS = [3, 9, 1, 5, 12]  # of prompts


def context(tmp_path: Path, resident: Resident | None = None) -> Context:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return Context(
        evolution="test",
        step=0,
        stage="rollout",
        scratch=scratch,
        resident=Resident() if resident is None else resident,
    )


def opened(name: str, policy: Policy, tmp_path: Path, resident: Resident | None = None, **options: Any) -> Any:
    return open_engine(EngineConfig(**{"name": name, **options}), policy, context(tmp_path, resident))
