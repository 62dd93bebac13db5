"""The engines there are, and the one that this process has open.

An engine is kept between the stage calls of one process, and replaced when the policy or the configuration changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from instar import config as configs
from instar.artifact import Policy
from instar.components.rollout.config import EngineConfig
from instar.components.rollout.engine import Engine, check_served
from instar.contract import Context
from instar.errors import EngineError

ENGINE = "rollout/engine"
"""Key of the resident engine."""


def _transformers(config: EngineConfig, policy: Policy, ctx: Context) -> Engine:
    from instar.components.rollout.transformers_engine import TransformersEngine

    return cast(Engine, TransformersEngine.open(config, policy, ctx))


def _vllm(config: EngineConfig, policy: Policy, ctx: Context) -> Engine:
    from instar.components.rollout.vllm_engine import VllmEngine

    return cast(Engine, VllmEngine.open(config, policy, ctx))


ENGINES: dict[str, Callable[[EngineConfig, Policy, Context], Engine]] = {
    "transformers": _transformers,  # stock causal language models, on CPU or CUDA
    "vllm": _vllm,  # the same on CUDA, by vLLM in this process
}


def open_engine(config: EngineConfig, policy: Policy, ctx: Context) -> Engine:
    """Return an engine that serves `policy`, reusing the resident one. Only the newest engine stays resident.

    Raises `EngineError` when the policy has no digest or the engine reports another one.
    """
    if not policy.digest:
        raise EngineError(
            expected="a committed policy", found="no digest", where=str(policy.path), action="commit the policy first"
        )
    key = (configs.digest(config), policy.digest)
    kept = ctx.resident.get(ENGINE)
    if kept is None or kept[0] != key:
        ctx.resident.pop(ENGINE, None)
        del kept  # free the old weights before loading the new ones
        kept = ctx.resident[ENGINE] = (key, ENGINES[config.name](config, policy, ctx))
    engine: Engine = kept[1]
    check_served(engine, policy)
    return engine
