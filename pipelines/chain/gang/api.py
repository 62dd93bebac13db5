"""The few requests of a launcher to the Kubernetes API, through the library `kubernetes`, with named errors.

Every request has a timeout and is sent once. The caller decides whether to try again. Answers are read as JSON here, because the
library returns an answer that it cannot read as plain text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from instar.errors import ConfigError, InstarError, MissingDependencyError, UnavailableError

Object = dict[str, Any]
_TIMEOUT = (5.0, 30.0)
_TRANSIENT = frozenset({408, 410, 429, 500, 502, 503, 504})
"""410 means that a watch began at a version which the server no longer knows."""
_PLURALS = {"JobSet": "jobsets", "Workflow": "workflows"}
_JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
"""The pods of a JobSet have this label, with the name of the JobSet."""


class GangApi:
    """Requests about the jobs of one namespace. Kind, API version and name of a `manifest` say which job is meant."""

    def __init__(self, namespace: str, client: Any) -> None:
        import kubernetes

        self.namespace, self._kubernetes = namespace, kubernetes
        self._jobs, self._core = kubernetes.client.CustomObjectsApi(client), kubernetes.client.CoreV1Api(client)

    def create(self, manifest: Object) -> Object | None:
        """Create a job and return it. Return None if its name is taken."""
        return self._ask(self._jobs.create_namespaced_custom_object, *self._kind(manifest), manifest, absent={409})

    def get(self, manifest: Object) -> Object | None:
        """Return the job, or None if there is no job of that name."""
        return self._ask(self._jobs.get_namespaced_custom_object, *self._named(manifest), absent={404})

    def patch(self, manifest: Object, changes: Object) -> bool:
        """Merge changes into the job. Return False if it is gone, or if it is no longer the version that the changes name."""
        call = self._jobs.patch_namespaced_custom_object
        return self._ask(call, *self._named(manifest), changes, absent={404, 409}) is not None

    def delete(self, manifest: Object, uid: str) -> bool:
        """Delete the job with this UID and everything that it created. Return False if it is gone or another job has its name."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        call = self._jobs.delete_namespaced_custom_object
        return self._ask(call, *self._named(manifest), body=body, absent={404, 409}) is not None

    def workflow(self, name: str) -> Object | None:
        """Return a Workflow of the namespace."""
        meta = {"name": name}
        return self.get({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": meta})

    def pods(self, name: str) -> list[Object]:
        """Return the pods of a job that still exist."""
        call = self._core.list_namespaced_pod
        answer = self._ask(call, self.namespace, label_selector=f"{_JOBSET_NAME}={name}")
        return list((answer or {}).get("items", []))

    def watch(self, manifest: Object, seconds: float) -> Iterator[Object | None]:
        """Yield the job now and after each change, and None when it is gone. End after about `seconds`.

        Each call begins with the present state of the job. So a caller that calls again after any end misses nothing that still
        matters. This also holds after a dropped connection or a 410, which are both an `UnavailableError`.
        """
        call, kind = self._jobs.list_namespaced_custom_object, self._kind(manifest)
        only = f"metadata.name={manifest['metadata']['name']}"
        jobs = self._ask(call, *kind, field_selector=only) or {}
        yield next(iter(jobs.get("items", [])), None)
        version = jobs.get("metadata", {}).get("resourceVersion", "")
        response = self._send(
            call,
            *kind,
            field_selector=only,
            resource_version=version,
            watch=True,
            timeout_seconds=max(1, round(seconds)),
            _request_timeout=(_TIMEOUT[0], seconds + _TIMEOUT[1]),
        )
        try:
            yield from self._events(response, _where(call))
        finally:
            response.close()

    def _events(self, response: Any, where: str) -> Iterator[Object | None]:
        import urllib3
        from kubernetes.watch.watch import iter_resp_lines

        try:
            for line in iter_resp_lines(response):
                event = _object(line, where)
                if event.get("type") == "ERROR":
                    status = event.get("object", {})
                    raise _refusal(int(status.get("code") or 500), json.dumps(status), where)
                yield None if event.get("type") == "DELETED" else event["object"]
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error, where) from error

    def _kind(self, manifest: Mapping[str, Any]) -> tuple[str, str, str, str]:
        group, _, version = manifest["apiVersion"].partition("/")
        return group, version, self.namespace, _PLURALS[manifest["kind"]]

    def _named(self, manifest: Mapping[str, Any]) -> tuple[str, ...]:
        return *self._kind(manifest), manifest["metadata"]["name"]

    def _ask(self, call: Callable[..., Any], *args: Any, absent: set[int] | None = None, **query: Any) -> Object | None:
        response = self._send(call, *args, absent=absent, **query)
        return None if response is None else _object(response.data.decode(errors="replace"), _where(call))

    def _send(self, call: Callable[..., Any], *args: Any, absent: set[int] | None = None, **query: Any) -> Any:
        """Send a request and return the raw response. Return None if its status is in `absent`."""
        import urllib3

        try:
            return call(*args, **{"_request_timeout": _TIMEOUT, **query}, _preload_content=False)
        except self._kubernetes.client.ApiException as error:
            if error.status in (absent or ()):
                return None
            raise _refusal(error.status, _text(error.body), _where(call)) from None
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error, _where(call)) from error


def open_api(namespace: str) -> GangApi:
    """Return the API with the service account of the pod or, outside a cluster, with the user's kubeconfig."""
    try:
        import kubernetes
        import urllib3
    except ImportError as error:
        raise MissingDependencyError(
            expected="the package kubernetes", found="nothing", where="gang", action="pip install 'instar[cluster]'"
        ) from error
    settings: Any = kubernetes.client.Configuration()
    try:
        kubernetes.config.load_incluster_config(client_configuration=settings)
    except kubernetes.config.ConfigException:
        try:
            kubernetes.config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
        except kubernetes.config.ConfigException as error:
            raise ConfigError(
                expected="a pod with a service account token, or a kubeconfig",
                found=str(error),
                where="Kubernetes API",
                action="run in the cluster with automountServiceAccountToken, or set KUBECONFIG",
            ) from error
    settings.retries = urllib3.Retry(total=0, raise_on_redirect=False)
    return GangApi(namespace, kubernetes.client.ApiClient(settings))


def _object(text: str, where: str) -> Object:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    raise ConfigError(
        expected="a JSON object",
        found=repr(text[:120]),
        where=where,
        action="check the address; a login page, for example, gives such an answer",
    )


def _refusal(status: int, body: str, where: str) -> InstarError:
    found = f"HTTP {status}: {body[:600]}"
    if status in _TRANSIENT:
        return UnavailableError(
            expected="an answer of the API server", found=found, where=where, action="try again later"
        )
    action = {
        401: "renew the token",
        403: "grant the launcher's account the right that the answer names",
        404: "install the controller of this kind of job",
    }.get(status, "correct the request")
    return ConfigError(expected="a request that the API server accepts", found=found, where=where, action=action)


def _unreachable(error: Exception, where: str) -> UnavailableError:
    reason = getattr(error, "reason", None) or error
    return UnavailableError(
        expected="an answer of the API server",
        found=type(reason).__name__,
        where=where,
        action="check that the server is reachable",
    )


def _where(call: Callable[..., Any]) -> str:
    return f"Kubernetes API, {getattr(call, '__name__', 'request')}"


def _text(body: Any) -> str:
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
