"""The settings that are chosen for a device, as one value that is read from a recipe and written into a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from instar.components.evaluate.config import AnswerConfig
from instar.components.rollout.config import EngineConfig
from instar.pipelines.cost.case import text_pieces
from instar.pipelines.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The settings that depend on the device and not on the method."""

    engine: Literal["transformers", "vllm"]
    max_rows: int
    memory_share: float
    micro_batch_tokens: int
    checkpointing: bool
    moments: Literal["device", "host"]


def choice_of(recipe: Recipe) -> Choice:
    """Return the choice that the recipe contains. `gradient_checkpointing=auto` counts as off."""
    pieces = text_pieces(recipe)
    engine, update = pieces.rollout.engine, pieces.update
    return Choice(
        engine=engine.name,
        max_rows=engine.max_rows,
        memory_share=engine.memory_share,
        micro_batch_tokens=update.micro_batch_tokens,
        checkpointing=update.gradient_checkpointing == "on",
        moments=update.moments,
    )


def placed(recipe: Recipe, choice: Choice, device: str, fixed: Mapping[str, Any]) -> Recipe:
    """Return the recipe with the choice written into rollout, evaluation, test and update. Settings that are `fixed` stay."""
    pieces = text_pieces(recipe)
    engine: dict[str, Any] = {
        "name": choice.engine,
        "max_rows": choice.max_rows,
        "memory_share": choice.memory_share,
        "device": "cuda",
    }
    trained: dict[str, Any] = {
        "micro_batch_tokens": choice.micro_batch_tokens,
        "gradient_checkpointing": "on" if choice.checkpointing else "off",
        "moments": choice.moments,
        "device": "cuda",
    }
    told = part(fixed, "update")
    update = dataclasses.replace(pieces.update, **{k: v for k, v in trained.items() if k not in told})
    test = recipe.test
    if isinstance(test, AnswerConfig):
        test = dataclasses.replace(test, engine=_engine(test.engine, engine, part(fixed, "test", "engine")))
    return dataclasses.replace(
        recipe,
        device=device,
        rollout=dataclasses.replace(
            pieces.rollout, engine=_engine(pieces.rollout.engine, engine, part(fixed, "rollout", "engine"))
        ),
        evaluate=dataclasses.replace(
            pieces.evaluate, engine=_engine(pieces.evaluate.engine, engine, part(fixed, "evaluate", "engine"))
        ),
        test=test,
        update=update,
    )


def _engine(config: EngineConfig, values: Mapping[str, Any], told: Mapping[str, Any]) -> EngineConfig:
    return dataclasses.replace(config, **{k: v for k, v in values.items() if k not in told})


def part(fixed: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the table below `names` in the nested tables `fixed`, or an empty one if there is none."""
    for name in names:
        inner = fixed.get(name)
        fixed = inner if isinstance(inner, Mapping) else {}
    return fixed
