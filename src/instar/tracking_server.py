"""The MLflow calls of `instar.tracking`: every wait is bounded, batches obey MLflow's limits, and no text has secrets.

MLflow 3.17 has these limits. A batch holds 1000 metrics, and 100 parameters or tags. A key has 250 characters, the value of a
parameter 6000, the value of a tag 8000.
MLflow reads its HTTP timeouts from the environment. A value that the user has set there is not changed.
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
EXPORT = "instar.export"
"""Tag of a model version: the command that writes its weights as a Hugging Face folder."""
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100
KEY_CHARS, PARAM_CHARS, TAG_CHARS = 250, 6000, 8000
DEADLINE_S = 20.0
"""Longest time of one sync with a server of any scheme. MLflow itself waits 102 s for a database that is down."""
FILE_DEADLINE_S = 60.0
"""Longest time of one sync with a SQLite file. It is longer because the first sync creates the tables."""
LIMITS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
DRIVERS = {"postgresql": "psycopg2-binary", "mysql": "pymysql", "mssql": "pyodbc"}
"""Scheme of a database -> package of a driver that can be installed for it."""
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
"""Error codes of MLflow that do not change when the call is repeated."""
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
    """Raise `MissingDependencyError` unless MLflow and a database driver for `uri` are installed.

    This is checked before any stage runs.
    """
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
        package = DRIVERS.get(scheme, "the driver that the scheme names")
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
    """Return the exceptions by which MLflow says that it cannot be used right now."""
    names = (
        ("mlflow.exceptions", "MlflowException"),
        ("requests.exceptions", "RequestException"),
        ("sqlalchemy.exc", "SQLAlchemyError"),
    )
    kinds: list[type[BaseException]] = [OSError, UnavailableError]
    for module, name in names:
        try:
            kinds.append(getattr(importlib.import_module(module), name))
        except ImportError:
            continue
    return tuple(kinds)


def deadline(uri: str) -> float:
    """Return the longest time of one sync, in seconds."""
    return FILE_DEADLINE_S if uri.startswith("sqlite:") else DEADLINE_S


class Patience:
    """Runs work that calls a server, and stops waiting when the time is over.

    A call that waits for a server cannot be interrupted. So it runs in a thread of its own, which ends at its next call
    (`_Deadline`) or when the process ends. While that thread is alive, no other call is sent to the server.
    """

    def __init__(self) -> None:
        self._late: threading.Thread | None = None

    def within(self, seconds: float, work: Callable[[], T]) -> T:
        """Return the result of `work`, or raise its error. Raise `UnavailableError` if it takes longer than `seconds`."""
        if self._late is not None and self._late.is_alive():
            raise _slow(seconds, "an earlier call still waits")
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
    return UnavailableError(
        expected=f"a sync within {seconds:g} s",
        found=f"a slow server: {what}",
        where="--tracking",
        action="check the server",
    )


class _Deadline:
    """Passes calls on to an MLflow client until the time of the sync is over; then every call fails."""

    def __init__(self, client: Any, until: float) -> None:
        self._client, self._until = client, until

    def __getattr__(self, name: str) -> Any:
        if time.monotonic() > self._until:
            raise _slow(DEADLINE_S, name)
        return getattr(self._client, name)


class Server:
    """An MLflow server or database, with one experiment and one registered model. Both are named `model`."""

    def __init__(self, uri: str, model: str, artifacts: str | None) -> None:
        self.uri, self.model, self.artifacts = uri, model, artifacts
        self.client: Any = None
        self._raw: Any = None
        self._experiment = ""

    def start(self) -> None:
        """Connect if there is no connection yet, and start the clock of a sync."""
        if self._raw is None:
            self._raw = _client(self.uri)
        self.client = _Deadline(self._raw, time.monotonic() + deadline(self.uri))
        experiment = self.client.get_experiment_by_name(self.model)
        if experiment is None:
            self._experiment = self.client.create_experiment(self.model, artifact_location=self.artifacts)
        elif experiment.lifecycle_stage == "active":
            self._experiment = experiment.experiment_id
        else:
            raise ConfigError(
                expected=f"experiment '{self.model}'",
                found=f"a deleted experiment of that name, {experiment.experiment_id}",
                where=scrub(self.uri),
                action=f"run mlflow experiments restore --experiment-id {experiment.experiment_id}, or remove it with mlflow gc",
            )

    def find_runs(self, tags: Mapping[str, str]) -> list[Any]:
        """Return the runs that have all `tags`, oldest first. A deleted run is restored, because the ledger still has it."""
        from mlflow.entities import ViewType

        quoted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        runs = self.client.search_runs(
            [self._experiment], " and ".join(quoted), run_view_type=ViewType.ALL, order_by=["attributes.start_time ASC"]
        )
        for run in runs:
            if run.info.lifecycle_stage == "deleted":
                self.client.restore_run(run.info.run_id)
        return list(runs)

    def create_run(self, name: str, started: float, tags: Mapping[str, str]) -> Any:
        """Start a run. The tags are sent in the same call, so there is never a run without them."""
        return self.client.create_run(self._experiment, start_time=_ms(started), tags=dict(tags), run_name=name)

    def log(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Log metrics and tags, with one call per thousand metrics. The last call has the tags."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(_key(k), v, _ms(p.at), p.step) for p in points for k, v in p.metrics.items()]
        batches = list(_chunks(metrics, METRICS_PER_BATCH)) or [[]]
        final_tags = [RunTag(_key(k), scrub(v)[:TAG_CHARS]) for k, v in tags.items()]
        for number, batch in enumerate(batches, 1):
            self.client.log_batch(run_id, metrics=batch, tags=final_tags if number == len(batches) else [])

    def log_config(self, run_id: str, opened: Mapping[str, Any]) -> None:
        """Log the resolved recipe twice: as the file `recipe.json`, and flat as parameters."""
        from mlflow.entities import Param

        flat = flatten({**opened["recipe"], "seed": opened["seed"], "code": opened["code"]})
        for batch in _chunks([Param(k, v) for k, v in flat.items()], PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=batch)
        self.client.log_dict(run_id, dict(opened["recipe"]), "recipe.json")

    def finish(self, run_id: str, at: float) -> None:
        """Mark a run as finished at `at`, a time of the ledger."""
        self.client.set_terminated(run_id, "FINISHED", _ms(at))

    def version(self, run: Callable[[], Any], manifest: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """Return the version of the registered model that has this policy in this store. Create it if there is none.

        A new version gets `tags` and belongs to the MLflow run that `run` returns. Its source is `manifest`, a few lines: the
        weights stay in the store, under the digest of the policy. Its description is the command that fetches them. The alias
        `candidate` is moved to the newest version. This also works if an earlier process was killed after it had created a
        version and before it had moved the alias.
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
            created = self.client.create_model_version(
                self.model, source, run_id=info.run_id, tags=dict(tags), description=f"Weights: `{tags[EXPORT]}`"
            )
            version = str(created.version)
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
    """Return nested tables as `a.b.c` -> text. A text that is too long for MLflow is cut and ends with its SHA-256."""
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
        logging.getLogger(name).setLevel(logging.ERROR)  # the tracker reports a failure itself, once
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
