"""The conditional PUT of an S3-compatible service, which the `minio` client cannot send.

It is a presigned PUT with `If-None-Match` or `If-Match` beside the signature. The request is repeated when its answer is
lost, and then meets the bytes that its first attempt stored: a nonce in the object's content type tells a writer that
the bytes are its own.
"""

from __future__ import annotations

import secrets
import time

from minio.error import S3Error, ServerError

from instar.errors import UnavailableError
from instar.store_requests import Requests

ABSENT = frozenset({"NoSuchKey", "NoSuchObject"})
_CONFLICTS = 20


def new_nonce() -> str:
    """Return a content type that no other writer has."""
    return f"application/octet-stream; creator={secrets.token_hex(12)}"


def conditional_put(http: Requests, url: str, data: bytes, headers: dict[str, str], pause_s: float) -> bool | None:
    """Send the PUT; return True when it was done, False when there is no object to match, None when the condition fails.

    None needs a look at the object's content type: the condition also fails for a writer that has already won. Status 409
    (another conditional PUT is in flight) is asked again after `pause_s` seconds. Any other answer is the client's error.
    """
    headers = {**headers, "Content-Length": str(len(data))}
    response = http.urlopen("PUT", url, body=data, headers=headers)
    for _ in range(_CONFLICTS):
        if response.status != 409:
            break
        time.sleep(pause_s)
        response = http.urlopen("PUT", url, body=data, headers=headers)
    if response.status in (200, 201, 204):
        return True
    if response.status == 412:
        return None
    if response.status == 409:
        raise UnavailableError(
            expected="the service to settle conditional writes to one object",
            found=f"{_CONFLICTS + 1} answers of 409 in a row",
            where=url.partition("?")[0],
            action="run the same command again",
        )
    if b"<Error" not in (response.data or b""):
        raise ServerError(f"HTTP {response.status}", response.status)
    error = S3Error.fromxml(response)
    if "If-Match" in headers and error.code in ABSENT:
        return False
    raise error
