"""The world fixture of the update's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.update.world import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A tiny policy with 4 groups of 4 scored rollouts."""
    return make_world(tmp_path)
