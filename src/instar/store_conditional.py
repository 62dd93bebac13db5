"""The conditional PUT of an S3-compatible service, which the `minio` client cannot send.

It is a presigned PUT with the header `If-None-Match` or `If-Match`. If its answer is lost, the request is sent again. The
second request may fail because the first one has stored its bytes. So every writer puts a nonce into the content type of the
object. By this nonce it knows that the stored bytes are its own.
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
    """Send the PUT. Return True if it was done, False if `If-Match` met no object, None if the condition failed.

    After None, the caller looks at the content type of the object, because the condition also fails for a writer that has
    already won. Status 409 means that another conditional PUT is in flight; the request is sent again after `pause_s` seconds.
    Any other status raises the error of the `minio` client.
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
            expected="an answer other than 409 (another conditional write is in flight)",
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
