"""`--data` and `--env`: logged episodes of any environment, as settings of a recipe that learns from such episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instar.components.dataset_prep.offline.config import OfflineConfig
from instar.errors import ConfigError
from instar.pipelines.recipes import METHODS, method


def offline_source(
    path: Path | str, env: str = "", random_return: float | None = None, expert_return: float | None = None
) -> dict[str, Any]:
    """Return the differences to a recipe that make it learn from the episodes at `path`.

    For example, `offline_source("data.parquet", "MountainCarContinuous-v0")` is what `--data data.parquet --env
    MountainCarContinuous-v0` says. A return that is None is not part of the result.
    """
    source: dict[str, Any] = {"strategy": "files", "path": str(path)}
    source |= {"env": env} if env else {}
    returns = {"random_return": random_return, "expert_return": expert_return}
    source |= {name: value for name, value in returns.items() if value is not None}
    return {"dataset_prep": {"source": source}}


def with_data(recipe: str, scale: str, data: Path | None, env: str, sets: Sequence[str]) -> list[str]:
    """Return `sets`, after the assignments that `--data` and `--env` stand for. So `--set` can still change each of them.

    `--env` without `--data`, and `--data` for a recipe that learns from no logged episodes, are a `ConfigError`.
    """
    if data is None:
        if env:
            raise ConfigError(
                expected="--data PATH with --env, because the environment is that of logged episodes",
                found="--env alone",
                where=f"--env {env}",
                action="add --data PATH, or leave --env out",
            )
        return list(sets)
    if not isinstance(method(recipe).recipe(scale).dataset_prep, OfflineConfig):
        offline = [name for name in METHODS if isinstance(method(name).recipe("tiny").dataset_prep, OfflineConfig)]
        raise ConfigError(
            expected=f"a recipe that learns from logged episodes: {', '.join(offline)}",
            found=recipe,
            where=f"--data {data}",
            action="leave --data out, or choose such a recipe",
        )
    return [*_assignments(offline_source(data, env)), *sets]


def _assignments(differences: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return nested differences as texts for `--set`. A text in JSON is also one in TOML."""
    texts = []
    for key, value in differences.items():
        if isinstance(value, Mapping):
            texts += _assignments(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}")
    return texts
