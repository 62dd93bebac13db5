"""The MLflow calls of `instar.tracking`: bounded waiting, batches inside MLflow's limits, no secrets in text.

MLflow 3.17 takes 1000 metrics and 100 parameters or tags per batch, 250 characters per key, 6000 per parameter, 8000
per tag.
MLflow reads its HTTP limits from the environment; what the user has set there wins.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from instar.errors import ConfigError, LedgerError, MissingDependencyError, UnavailableError
from instar.timeline import Point

POLICY, STORE = "instar.policy", "instar.store"
"""Tags of a model version: the digest of its policy, and the store that holds it."""
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
KEY_CHARS, PARAM_CHARS, TAG_CHARS = 250, 6000, 8000
DEADLINE_S = 20.0
"""Longest time of one sync against a server: checked before every call, each bounded by `LIMITS`."""
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def scrub(text: str) -> str:
    """Return `text` on one line without user names and passwords of URIs and without secrets of the environment."""
    text = re.sub(r"://[^/\s'\"]*@", "://***@", " ".join(text.split()))
    for value in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(value, "***")
    return text if len(text) <= 500 else f"{text[:497]}..."


def check_uri(uri: str) -> None:
    """Raise `ConfigError` unless MLflow has a store for `uri`."""
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        raise ConfigError(
            expected=f"an MLflow URI ({'://, '.join(SCHEMES)}://) or off",
            found=scrub(uri),
            where="--tracking",
            action="give sqlite:///FILE, http://HOST:PORT or off",
        )


def failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions that mean that MLflow cannot be used right now."""
    names = (
        ("mlflow.exceptions", "MlflowException"),
        ("requests.exceptions", "RequestException"),
        ("sqlalchemy.exc", "SQLAlchemyError"),
    )
    found: list[type[BaseException]] = [OSError, UnavailableError]
    for module, name in names:
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ImportError:
            continue
    return tuple(found)


class _Deadline:
    """Passes calls on to an MLflow client until the time of a sync is over."""

    def __init__(self, client: Any, until: float) -> None:
        self._client, self._until = client, until

    def __getattr__(self, name: str) -> Any:
        if time.monotonic() > self._until:
            raise UnavailableError(
                expected=f"a sync within {DEADLINE_S:g} s", found="a slow server", where=name, action="check the server"
            )
        return getattr(self._client, name)


class Server:
    """One MLflow server or database, one experiment of it, one registered model; both are named `model`."""

    def __init__(self, uri: str, model: str, artifacts: str | None) -> None:
        self.uri, self.model, self.artifacts = uri, model, artifacts
        self.client: Any = None
        self._raw: Any = None
        self._experiment = ""

    def start(self) -> None:
        """Connect if this was not done, and start the clock of a sync."""
        if self._raw is None:
            self._raw = _client(self.uri)
        limited = self.uri.startswith("http")
        self.client = _Deadline(self._raw, time.monotonic() + DEADLINE_S) if limited else self._raw
        if not self._experiment:
            found = self.client.get_experiment_by_name(self.model)
            self._experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(self.model, artifact_location=self.artifacts)
            )

    def find_runs(self, tags: Mapping[str, str]) -> list[Any]:
        """Return the live runs that carry all `tags`, oldest first."""
        quoted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        return list(
            self.client.search_runs([self._experiment], " and ".join(quoted), order_by=["attributes.start_time ASC"])
        )

    def create_run(self, name: str, started: float, tags: Mapping[str, str]) -> Any:
        """Start a run. The tags are part of the same call, so that no run is ever without them."""
        return self.client.create_run(self._experiment, start_time=_ms(started), tags=dict(tags), run_name=name)

    def log(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Log metrics and tags: one call, or one per thousand metrics. The tags come last."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(_key(k), v, _ms(p.at), p.step) for p in points for k, v in p.metrics.items()]
        batches = list(_chunks(metrics, METRICS_PER_BATCH)) or [[]]
        last = [RunTag(_key(k), scrub(v)[:TAG_CHARS]) for k, v in tags.items()]
        for number, batch in enumerate(batches, 1):
            self.client.log_batch(run_id, metrics=batch, tags=last if number == len(batches) else [])

    def log_config(self, run_id: str, opened: Mapping[str, Any]) -> None:
        """Log the resolved recipe: whole as `recipe.json`, flat as parameters."""
        from mlflow.entities import Param

        flat = flatten({**opened["recipe"], "seed": opened["seed"], "code": opened["code"]})
        for batch in _chunks([Param(k, v) for k, v in flat.items()], PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=batch)
        self.client.log_dict(run_id, dict(opened["recipe"]), "recipe.json")

    def finish(self, run_id: str, at: float) -> None:
        """Mark a run as finished at the ledger's time."""
        self.client.set_terminated(run_id, "FINISHED", _ms(at))

    def version(self, run: Any, manifest: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """Return the version of the registered model with these tags; make it when there is none.

        The alias `candidate` ends on the newest version, also when a kill came between making one and naming it.
        A version's source is a manifest of a few lines: the weights stay in the store, under the policy's digest.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self.client.search_model_versions(f"name = '{self.model}'", max_results=10_000)
        same = [v for v in versions if all(v.tags.get(k) == t for k, t in tags.items())]
        if same:
            version = str(same[0].version)
        else:
            self.client.log_dict(run.info.run_id, dict(manifest), "policy/manifest.json")
            source = f"{run.info.artifact_uri}/policy"
            made = self.client.create_model_version(self.model, source, run_id=run.info.run_id, tags=dict(tags))
            version = str(made.version)
        named = self.client.get_registered_model(self.model).aliases.get("candidate", "0")
        if int(named) < int(version):
            self.client.set_registered_model_alias(self.model, "candidate", version)
        return version


def registered(uri: str, model: str, alias: str) -> tuple[str, str]:
    """Return the policy digest and the store URI of the model version that `alias` points to."""
    check_uri(uri)
    try:
        tags = _client(uri).get_model_version_by_alias(model, alias).tags
    except failures() as error:
        raise LedgerError(
            expected=f"a version of '{model}' with the alias '{alias}'",
            found=scrub(str(error)).splitlines()[0],
            where=scrub(uri),
            action="check --tracking; `instar promote DIR` sets the alias",
        ) from error
    return str(tags[POLICY]), str(tags[STORE])


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Return nested tables as `a.b.c` -> text. What is longer than MLflow takes is cut and ends in its SHA-256."""
    if isinstance(value, Mapping):
        return {
            k: v
            for key, inner in value.items()
            for k, v in flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return {k: v for i, inner in enumerate(value) for k, v in flatten(inner, f"{prefix}.{i}").items()}
    text = re.sub(r"://[^/\s'\"]*@", "://***@", str(value))
    return {_key(prefix): _cut(text, PARAM_CHARS)}


def _cut(text: str, limit: int) -> str:
    mark = f"... sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def _key(name: str) -> str:
    return _cut(re.sub(r"[^\w.\- :/]", "_", name, flags=re.ASCII), KEY_CHARS)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _chunks(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _client(uri: str) -> Any:
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingDependencyError(
            expected="mlflow-skinny",
            found=str(error),
            where="--tracking",
            action="pip install 'instar[tracking]', or --tracking off",
        ) from error
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.store"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
