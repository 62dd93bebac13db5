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
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any, TypeVar

from instar.errors import ConfigError, LedgerError, MissingDependencyError, UnavailableError
from instar.timeline import Point

T = TypeVar("T")

POLICY, STORE = "instar.policy", "instar.store"
"""Tags of a model version: the digest of its policy, and the store that holds it."""
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
KEY_CHARS, PARAM_CHARS, TAG_CHARS = 250, 6000, 8000
DEADLINE_S = 20.0
"""Longest time of one sync against a server, whatever its scheme: MLflow's own bound is 102 s for a database that is down."""
FILE_DEADLINE_S = 60.0
"""The same for a SQLite file, whose first sync makes the tables."""
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "pymysql", "mssql": "pyodbc"}
"""Package of a database driver that can be installed where none is."""
PERMANENT = (
    "BAD_REQUEST",
    "CUSTOMER_UNAUTHORIZED",
    "ENDPOINT_NOT_FOUND",
    "FEATURE_DISABLED",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
)
"""Error codes of MLflow with which asking again ends in the same way."""
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


def check_client(uri: str) -> None:
    """Raise `MissingDependencyError` unless MLflow and a database driver for `uri` are installed, before a stage is run."""
    for package in ("mlflow",) if uri.startswith("http") else ("mlflow", "sqlalchemy", "alembic"):
        if find_spec(package) is None:
            raise _missing(package, "none", "pip install 'instar[tracking]', or --tracking off")
    if uri.startswith(("http", "sqlite:")):
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    scheme = uri.partition("://")[0]
    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        package = DRIVERS.get(scheme, "the driver that it names")
        raise _missing(
            f"a driver for {scheme}", str(error), f"pip install {package}, or name another one: {scheme}+DRIVER://"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        raise ConfigError(
            expected="the URI of a database, such as postgresql://USER@HOST:PORT/NAME",
            found=f"{scrub(uri)}: {scrub(str(error))}",
            where="--tracking",
            action="correct the URI",
        ) from error


def _missing(expected: str, found: str, action: str) -> MissingDependencyError:
    return MissingDependencyError(expected=expected, found=found, where="--tracking", action=action)


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


def deadline(uri: str) -> float:
    """Return the longest time of one sync, in seconds."""
    return FILE_DEADLINE_S if uri.startswith("sqlite:") else DEADLINE_S


class Patience:
    """Runs work that may wait for a server, and goes on without it when the time is over.

    What does not answer cannot be interrupted: it is left to a thread that ends at its next call (`_Deadline`) or with the
    process, and until then nothing else is asked of the server.
    """

    def __init__(self) -> None:
        self._late: threading.Thread | None = None

    def within(self, seconds: float, work: Callable[[], T]) -> T:
        """Return what `work` does, or raise its error; `UnavailableError` when it takes longer."""
        if self._late is not None and self._late.is_alive():
            raise _slow(seconds, "the call before still waits")
        done: list[T] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                done.append(work())
            except BaseException as error:
                raised.append(error)

        self._late = threading.Thread(target=run, name="instar-tracking", daemon=True)
        self._late.start()
        self._late.join(max(0.0, seconds))
        if raised:
            raise raised[0]
        if not done:
            raise _slow(seconds, "no answer")
        return done[0]


def _slow(seconds: float, what: str) -> UnavailableError:
    found = f"a slow server: {what}"
    return UnavailableError(
        expected=f"a sync within {seconds:g} s", found=found, where="--tracking", action="check the server"
    )


class _Deadline:
    """Passes calls on to an MLflow client until the time of a sync is over."""

    def __init__(self, client: Any, until: float) -> None:
        self._client, self._until = client, until

    def __getattr__(self, name: str) -> Any:
        if time.monotonic() > self._until:
            raise _slow(DEADLINE_S, name)
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
        self.client = _Deadline(self._raw, time.monotonic() + deadline(self.uri))
        found = self.client.get_experiment_by_name(self.model)
        if found is None:
            self._experiment = self.client.create_experiment(self.model, artifact_location=self.artifacts)
        elif found.lifecycle_stage == "active":
            self._experiment = found.experiment_id
        else:
            raise ConfigError(
                expected=f"experiment '{self.model}'",
                found=f"experiment {found.experiment_id} of that name, deleted",
                where=scrub(self.uri),
                action=f"mlflow experiments restore --experiment-id {found.experiment_id}, or delete it for good with mlflow gc",
            )

    def find_runs(self, tags: Mapping[str, str]) -> list[Any]:
        """Return the runs that carry all `tags`, oldest first. Those that somebody deleted are restored: the ledger has them."""
        from mlflow.entities import ViewType

        quoted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        found = self.client.search_runs(
            [self._experiment], " and ".join(quoted), run_view_type=ViewType.ALL, order_by=["attributes.start_time ASC"]
        )
        for run in found:
            if run.info.lifecycle_stage == "deleted":
                self.client.restore_run(run.info.run_id)
        return list(found)

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

    def version(self, run: Callable[[], Any], manifest: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """Return the version of the registered model with this policy in this store; make it when there is none.

        `run` gives the run that a new version belongs to, `tags` are the new version's. The alias `candidate` ends on the newest
        version, also when a kill came between making one and naming it. A version's source is a manifest of a few lines: the
        weights stay in the store, under the policy's digest.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self.client.search_model_versions(f"name = '{self.model}'", max_results=10_000)
        same = [int(v.version) for v in versions if all(v.tags.get(k) == tags[k] for k in (POLICY, STORE))]
        if same:
            version = str(min(same))
        else:
            info = run().info
            self.client.log_dict(info.run_id, dict(manifest), "policy/manifest.json")
            source = f"{info.artifact_uri}/policy"
            made = self.client.create_model_version(self.model, source, run_id=info.run_id, tags=dict(tags))
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
        logging.getLogger(name).setLevel(logging.ERROR)  # its retries are told once, by whoever syncs
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
