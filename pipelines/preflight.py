"""Checks before the first stage that this machine has what the recipe needs.

A machine that only submits to a cluster or starts containers is not checked, because the stages do not run in this process.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from instar.components.dataset_prep.config import TextConfig
from instar.errors import ConfigError, MissingDependencyError
from instar.pipelines.fit.devices import GIB, largest_below, of_name
from instar.pipelines.recipe import Recipe

ON_A_DEVICE = ("rollout", "update", "evaluate", "test")


def check(recipe: Recipe, pieces: Sequence[str] = ON_A_DEVICE) -> None:
    """Raise `MissingDependencyError` if an engine is not installed, and `ConfigError` if a CUDA device is missing.

    A whole recipe that was planned for a GPU also needs a GPU with at least that memory (`ConfigError`). The device `auto` never
    fails. torch is loaded only if the recipe names CUDA or a planned GPU.
    """
    if recipe.device and pieces == ON_A_DEVICE:
        _check_planned(recipe)
    for piece in pieces:
        config = getattr(recipe, piece)
        engine = getattr(config, "engine", None)
        if engine is not None and engine.name == "vllm" and not _installed("vllm"):
            raise MissingDependencyError(
                expected="the package vllm",
                found="none",
                where=f"{piece}.engine.name=vllm",
                action="pip install 'instar[vllm]'",
            )
        device = f"{piece}.engine.device" if engine is not None else f"{piece}.device"
        if getattr(engine or config, "device", "auto") == "cuda" and not _cuda():
            raise ConfigError(
                expected="a CUDA device", found="none", where=device, action=f"set {device} to auto or cpu"
            )


def check_containers(recipe: Recipe) -> None:
    """Raise `ConfigError` if a stage would read a path of this machine, which its container does not have."""
    prep = recipe.dataset_prep
    where, reader = ("initial", prep.initial) if isinstance(prep, TextConfig) else ("source", prep.source)
    path = getattr(reader, "path", "")
    if path and (path.startswith((".", "~")) or Path(path).exists()):
        hub = "name a hub id that the containers can reach, " if isinstance(prep, TextConfig) else ""
        raise ConfigError(
            expected="nothing on this machine, because the stage runs in a container that does not see it",
            found=path,
            where=f"dataset_prep.{where}.path",
            action=f"{hub}put the files into the image under a path that this machine does not have, or run in process",
        )


def _check_planned(recipe: Recipe) -> None:
    planned, memory = of_name(recipe.device), _memory() if _cuda() else 0
    if memory < planned.memory:
        fitting = largest_below(memory)
        smaller = f"plan for it with --device {fitting}" if fitting else "choose --scale tiny or small"
        raise ConfigError(
            expected=f"a GPU of {planned.memory / GIB:.0f} GiB: {recipe.name} at {recipe.scale} is planned for {recipe.device}",
            found=f"one of {memory / GIB:.1f} GiB" if memory else "none",
            where="this machine",
            action=f"{smaller}, run it on a machine with that GPU, or `instar submit` it to a cluster",
        )


def _memory() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
