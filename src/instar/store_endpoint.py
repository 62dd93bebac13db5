"""Address and credentials of an S3-compatible service. They come from the environment, never from the URI of a store."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass, field

from instar.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Address and credentials of the service. `repr` does not show the secrets."""

    host: str
    secure: bool
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def endpoint_from_environment() -> Endpoint:
    """Return the endpoint of `INSTAR_S3_ENDPOINT` and the `AWS_*` variables. Raise `ConfigError` if one is missing."""
    values = {
        key: os.environ.get(key, "") for key in ("INSTAR_S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    absent = [key for key, value in values.items() if not value]
    if absent:
        raise _environment_error(f"no value for {', '.join(absent)}")
    given = {**values, **{key: os.environ.get(key, "") for key in ("AWS_SESSION_TOKEN", "AWS_REGION")}}
    unclean = [key for key, value in given.items() if not (value.isascii() and value.isprintable())]
    if unclean:  # an HTTP header cannot hold such a value; the error does not show the value, because it is a secret
        raise _environment_error(f"control characters, line ends or non-ASCII text in {', '.join(unclean)}")
    parts = _split(values["INSTAR_S3_ENDPOINT"])
    return Endpoint(
        host=parts.netloc,
        secure=parts.scheme == "https",
        region=os.environ.get("AWS_REGION") or "us-east-1",
        access_key=values["AWS_ACCESS_KEY_ID"],
        secret_key=values["AWS_SECRET_ACCESS_KEY"],
        session_token=os.environ.get("AWS_SESSION_TOKEN") or None,
    )


def _split(text: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"https://{text}")
        port = parts.port  # None when the URL names none
    except ValueError as error:
        raise _environment_error("an INSTAR_S3_ENDPOINT whose host or port is not valid") from error
    bare = not ("@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not parts.hostname or not bare or port == 0:
        raise _environment_error("an INSTAR_S3_ENDPOINT that has not the form http[s]://HOST[:PORT]")
    return parts


def _environment_error(found: str) -> ConfigError:
    return ConfigError(
        expected="INSTAR_S3_ENDPOINT (https://HOST[:PORT]), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        found=found,
        where="environment",
        action="set the variables",
    )
