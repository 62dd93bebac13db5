"""The fake Kubeflow server and evolutions on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instar.store import LocalStore
from support.chain_world import World
from support.fake_kfp import FakeKfp


@pytest.fixture(scope="module")
def kfp() -> Iterator[FakeKfp]:
    server = FakeKfp().start()
    yield server
    server.stop()


@pytest.fixture
def make(kfp: FakeKfp, tmp_path: Path) -> Callable[..., World]:
    folders = (tmp_path / f"store{number}" for number in itertools.count())
    return lambda **changes: World(kfp, LocalStore(next(folders), durable=False), **changes)
