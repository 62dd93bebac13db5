"""Requests through the library `kfp_server_api`, with stricter checks than the generated client has.

Every request has a timeout. Reads are repeated until a deadline. Other requests are sent only once, because the server could
not recognise a repetition. Answers are parsed as JSON here. The models of the library would turn the HTML of a login page
into an empty list, and that would look like "there is no such run".
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instar.errors import ConfigError, InstarError, MissingDependencyError, UnavailableError

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_NOT_ALLOWED = "grant the account the missing right, see docs/manifests.md"
_GONE = "check that the object still exists"
_ADVICE = {401: "renew the token", 403: _NOT_ALLOWED, 404: _GONE}
_WRONG = "correct the request; a redirect means that there is a login page in front of the server"
_KINDS: Mapping[str, str] = {
    "ServiceUnavailable": "",
    "PermissionDenied": _NOT_ALLOWED,
    "Unauthenticated": "renew the token",
    "NotFoundError": f"{_GONE}; if a pipeline version was deleted, `instar submit` with another name uploads a new one",
    "Invalid input error": _WRONG,
    "InvalidInputError": _WRONG,
    "Already exist error": _WRONG,
    "BadRequestError": _WRONG,
    "FailedPreconditionError": _WRONG,
    "UnknownApiVersionError": _WRONG,
    "Failed to validate workflow": _WRONG,
}
"""Kind of an error -> what to do about it. An empty text means: try again.

The server writes the kind into the text of an error (`backend/src/common/util/error.go`). The status is not enough: every
error that happens while a run is created has status 500 (`apiserver/resource/resource_manager.go:CreateRun`).
"""
_UPLOAD = "Failed to create a pipeline version"
"""The only text for a refused upload, with status 400 (`apiserver/server/pipeline_upload_server.go:uploadPipelineVersion`)."""
_PAGE = 100
_BACKOFF_MAX_S = 10.0
_TOKEN = re.compile(r"[!-~]+")  # printable ASCII without blanks, because the token goes into an HTTP header


@dataclass(frozen=True, kw_only=True, slots=True)
class KfpOptions:
    """Times in seconds. `deadline_s` limits a read together with its repetitions."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    deadline_s: float = 60.0
    backoff_s: float = 0.5


class KfpHttp:
    """Calls methods of the generated API classes, which share `client`."""

    def __init__(self, host: str, token_file: Path | None, certificates: Path | None, options: KfpOptions) -> None:
        try:
            import kfp_server_api as kfp
            import urllib3
        except ImportError as error:
            raise MissingDependencyError(
                expected="package kfp-server-api", found="nothing", where=host, action="pip install 'instar[cluster]'"
            ) from error
        self._kfp, self._host, self._options, self._token_file = kfp, host, options, token_file
        settings: Any = kfp.Configuration(host=host)
        settings.retries = urllib3.Retry(total=0, raise_on_redirect=False)
        settings.ssl_ca_cert = str(certificates) if certificates else None
        settings.api_key_prefix["authorization"] = "Bearer"
        settings.refresh_api_key_hook = self._refresh
        if token_file:
            self._refresh(settings)  # the library calls the hook only if there is a key already
        self.client = kfp.ApiClient(settings)

    def list(self, call: Callable[..., Any], key: str, name: str, *args: Any, **query: Any) -> list[dict[str, Any]]:
        """Return every item whose display name is `name`, over all pages."""
        predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
        query |= {"filter": json.dumps({"predicates": [predicate]}), "page_size": _PAGE}
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.read(call, *args, page_token=token, **query)
            items += [item for item in page.get(key) or [] if item.get("display_name") == name]
            token = page.get("next_page_token") or ""
            if not token:
                return items

    def read(self, call: Callable[..., Any], *args: Any, absent: Any = None, **query: Any) -> Any:
        """Send a read. Repeat it until it is answered or the deadline has passed."""
        stop, pause = time.monotonic() + self._options.deadline_s, self._options.backoff_s
        while True:
            try:
                return self.once(call, *args, absent=absent, **query)
            except UnavailableError:
                if time.monotonic() + pause > stop:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _BACKOFF_MAX_S)

    def once(self, call: Callable[..., Any], *args: Any, absent: Any = None, **query: Any) -> Any:
        """Send one request and return its answer as JSON. If `absent` is given, it is returned for status 404."""
        import urllib3

        where = f"{self._host} {call.__name__}"
        timeout = (self._options.connect_timeout_s, self._options.read_timeout_s)
        parameters = {key: value for key, value in query.items() if value is not None}
        try:
            response = call(*args, _request_timeout=timeout, _preload_content=False, **parameters)
            data = response.data
        except self._kfp.ApiException as error:
            if error.status == 404 and absent is not None:
                return absent
            raise _refusal(error.status, _text(error.body), where) from None
        except UnicodeDecodeError as error:  # the library decodes the body, which may be a page of any gateway
            status = getattr(error.__context__, "status", 0)
            raise _refusal(status, _text(error.object), where) from None
        except urllib3.exceptions.LocationValueError as error:
            raise _config("the URL of an API server", str(error), where, "correct --host") from error
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(error, where) from error
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            action = "check the URL and the token; the answer may be a login page"
            raise _config("a JSON object", repr(_text(data)[:120]), where, action)
        return answer

    def _refresh(self, settings: Any) -> None:
        """Read the token file again. The library calls this before it signs a request."""
        if self._token_file is None:
            return
        try:
            token = self._token_file.read_bytes().decode(errors="replace").strip()
        except OSError as error:
            raise _config("a readable token file", str(error), str(self._token_file), "mount the token") from error
        if not _TOKEN.fullmatch(token):  # the content may be a secret, so the error does not show it
            problem = "blanks, line ends or characters that are not printable ASCII" if token else "an empty file"
            raise _config("a token file with one token on one line", problem, str(self._token_file), "mount the token")
        settings.api_key["authorization"] = token


def _refusal(status: int, body: str, where: str) -> InstarError:
    """Return the named error for an HTTP answer. A status of 500 may be a refusal, so the text of the error decides."""
    answer = f"HTTP {status}: {body[:600]}"
    said = next((advice for kind, advice in _KINDS.items() if kind in body), "")
    if status in _TRANSIENT and not said:
        return UnavailableError(
            expected="an answer from the server",
            found=answer,
            where=where,
            action="run the same command again; if it fails again, read the log of the server",
        )
    if status == 400 and _UPLOAD in body:
        said = (
            f"{_NOT_ALLOWED} (`create` on `pipelines`); if it has this right, read the log of the server for the cause"
        )
    return _config("an accepted request", answer, where, _ADVICE.get(status) or said or _WRONG)


def _unreachable(error: Exception, where: str) -> InstarError:
    import urllib3

    reason = getattr(error, "reason", None) or error
    if isinstance(reason, urllib3.exceptions.SSLError) and any(
        isinstance(a, ssl.SSLCertVerificationError) for a in reason.args
    ):
        return _config("a certificate that can be verified", str(reason), where, "pass the CA bundle of the server")
    return UnavailableError(
        expected="an answer from the server",
        found=f"{type(reason).__name__}",
        where=where,
        action="check that the server is reachable",
    )


def _config(expected: str, found: str, where: str, action: str) -> ConfigError:
    return ConfigError(expected=expected, found=found, where=where, action=action)


def _text(body: Any) -> str:
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
