"""A small data set of Hopper's shape with known numbers, and one of real pendulums."""

from __future__ import annotations

import pytest

from instar.components.dataset_prep.offline import pendulum
from instar.components.dataset_prep.offline.episodes import Episodes, concat
from unit.offline.cases import hopper_like


@pytest.fixture
def hopper() -> Episodes:
    return hopper_like([4, 1, 1000, 7])


@pytest.fixture(scope="session")
def mixed() -> Episodes:
    rates = (1.0, 0.7, 0.4)
    return concat([pendulum.tier(rate, list(range(10 * i, 10 * i + 10))) for i, rate in enumerate(rates)])
