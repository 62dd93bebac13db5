"""The reference model of a KL term: one is kept in memory, whichever policies were referred to before."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from instar.components.update.config import Kl, PolicyGradientConfig
from instar.components.update.inputs import reference_model
from unit.update.world import make_world, save_model, tiny_llama


def test_a_reference_that_moved_on_is_forgotten(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    ctx, config = world.context(), PolicyGradientConfig(lr=1e-3, dtype="bfloat16", kl=Kl(place="loss", coef=0.1))
    first, second = (save_model(tiny_llama(n), tmp_path / f"reference{n}", f"reference{n}") for n in (1, 2))
    held = weakref.ref(reference_model(first, world.policy, config, ctx))
    gc.collect()
    assert held() is not None and reference_model(first, world.policy, config, ctx) is held()
    reference_model(second, world.policy, config, ctx)
    gc.collect()
    assert held() is None
