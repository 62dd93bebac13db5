"""Which engines there are, and which one this process has open.

An engine stays open between the stage calls of a process. It is replaced when the policy or the configuration changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from instar import config as configs
from instar.artifact import Policy
from instar.components.rollout.engine import Engine, check_served
from instar.contract import Context
from instar.errors import EngineError
from instar.resident import Kind

if TYPE_CHECKING:
    from instar.components.rollout.config import EngineConfig

ENGINE: Kind[tuple[str, Engine]] = Kind("rollout/engine", newest=1)
"""The engine that serves a policy, with the digest of its settings."""


def _transformers(config: EngineConfig, policy: Policy, ctx: Context) -> Engine:
    from instar.components.rollout.transformers_engine import TransformersEngine

    return cast(Engine, TransformersEngine.open(config, policy, ctx))


def _vllm(config: EngineConfig, policy: Policy, ctx: Context) -> Engine:
    from instar.components.rollout.vllm_engine import VllmEngine

    return cast(Engine, VllmEngine.open(config, policy, ctx))


ENGINES: dict[str, Callable[[EngineConfig, Policy, Context], Engine]] = {
    "transformers": _transformers,  # stock causal language models, on CPU or CUDA
    "vllm": _vllm,  # the same models on CUDA, with vLLM in this process
}


def open_engine(config: EngineConfig, policy: Policy, ctx: Context, kind: Kind[tuple[str, Engine]] = ENGINE) -> Engine:
    """Return an engine that serves `policy`. The engine of the call before is used again where it fits; otherwise it is dropped.

    A process has one engine of each `kind`.

    Raises `EngineError` when the policy has no digest, or when the engine reports another digest.
    """
    if not policy.digest:
        raise EngineError(
            expected="a committed policy", found="no digest", where=str(policy.path), action="commit the policy first"
        )
    settings = configs.digest(config)
    opened = ctx.resident.get(kind, policy.digest)
    if opened is None or opened[0] != settings:
        ctx.resident.drop_all(kind)
        del opened  # free the old weights before loading the new ones
        opened = (settings, ENGINES[config.name](config, policy, ctx))
        ctx.resident.put(kind, policy, opened)
    engine = opened[1]
    check_served(engine, policy)
    return engine
