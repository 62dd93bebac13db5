"""Rendered overlays, each made once by the pinned kubectl."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT))

from manifests.check import FOLDER, world  # noqa: E402
from manifests.objects import World  # noqa: E402
from manifests.tools import kubectl, render  # noqa: E402


@pytest.fixture(scope="session")
def binary() -> Path:
    """The pinned kubectl, fetched when it is not there yet."""
    return kubectl()


@pytest.fixture(scope="session")
def overlay(binary: Path) -> Callable[[str], World]:
    """Return a fresh copy of what an overlay renders to, free to be spoiled."""
    made: dict[str, World] = {}

    def get(name: str) -> World:
        if name not in made:
            made[name] = world(name, render(binary, FOLDER / "overlays" / name))
        return copy.deepcopy(made[name])

    return get
