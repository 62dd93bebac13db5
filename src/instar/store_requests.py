"""The HTTP client of an S3 operation. It retries failures that can pass, limits every wait, and gives up with a named error.

A request with all its retries takes at most `S3Options.deadline_s`. Bodies are sent in small blocks, because the timeout of a
socket applies to each send. With one large block, a slow link would look like a stalled one.
"""

from __future__ import annotations

import hashlib
import io
import os
import ssl
import time
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, SSLError

from instar.errors import UnavailableError

_BLOCK_BYTES = 1 << 18
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_REQUEST_TIMEOUT = b"<Code>RequestTimeout</Code>"  # in an answer of status 400


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Options:
    """Timeouts in seconds, sizes in bytes."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    deadline_s: float = 120.0
    backoff_s: float = 0.2
    backoff_max_s: float = 10.0
    part_bytes: int = 16 << 20
    num_threads: int = 4


class Requests(urllib3.PoolManager):
    """The client of one operation. It retries inside `urlopen` and takes connections from a pool that operations share.

    If one request has used up its deadline, every further request of the operation fails at once.
    """

    def __init__(self, pool: urllib3.PoolManager, options: S3Options, host: str, operation: str) -> None:
        super().__init__(num_pools=1)
        self._pool, self._options, self._host, self._operation = pool, options, host, operation
        self._failure: UnavailableError | None = None
        self._listed: set[str] = set()

    def urlopen(self, method: str, url: str, redirect: bool = False, **kw: Any) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Send one request. Repeat it until it is answered or refused for good, or until its deadline has passed."""
        del redirect
        if "list-type=" in url:
            self._check_page(url)
        started, attempt = time.monotonic(), 0
        seen: dict[str, str] = {}  # the last failure of each kind; the failure at the deadline may not be the cause
        while True:
            if self._failure is not None:
                raise self._failure
            remaining = self._options.deadline_s - (time.monotonic() - started)
            try:
                response = self._once(method, url, remaining, kw.get("body"), kw.get("headers"))
                if response.status not in _RETRY_STATUS and not _is_request_timeout(response):
                    return response
                kind = reason = f"HTTP {response.status}"
            except HTTPError as error:
                if isinstance(error, LocationValueError) or _is_certificate(error):
                    raise
                kind = type(error).__name__
                reason = f"{kind}: {without_query(str(error))}"
            attempt += 1
            seen[kind] = reason
            pause = self._pause(attempt, url)
            elapsed = time.monotonic() - started
            if elapsed + pause >= self._options.deadline_s:
                self._failure = self._unavailable("; ".join(seen.values()), attempt, elapsed)
                raise self._failure
            time.sleep(pause)

    def _check_page(self, url: str) -> None:
        """Refuse a page of a listing that this operation has asked for before, because the listing would never end.

        A faulty service says that there are more pages, but gives no new position.
        """
        if url in self._listed:
            raise HTTPError("a listing that sends the same page again")
        self._listed.add(url)

    def _once(self, method: str, url: str, remaining: float, body: Any, headers: Any) -> urllib3.HTTPResponse:
        """Send once and read the whole answer. So a connection that is lost inside the body counts as a failed attempt."""
        stop = time.monotonic() + remaining
        read = max(0.01, min(self._options.read_timeout_s, remaining))
        timeout = urllib3.Timeout(connect=max(0.01, min(self._options.connect_timeout_s, remaining)), read=read)
        sent = _Body(body, stop) if body else body  # minio and `create` set Content-Length
        response = self._pool.urlopen(
            method,
            url,
            redirect=False,
            body=sent,
            headers=headers,
            retries=False,
            preload_content=False,
            timeout=timeout,
        )
        content = bytearray()
        try:
            while chunk := response.read1(_BLOCK_BYTES, decode_content=False):  # returns what is there, without a wait
                content += chunk
                if time.monotonic() > stop:
                    raise urllib3.exceptions.TimeoutError(f"the answer was incomplete after {len(content)} bytes")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return urllib3.HTTPResponse(
            bytes(content), headers=response.headers, status=response.status, reason=response.reason
        )

    def _pause(self, attempt: int, url: str) -> float:
        """Return the backoff in seconds. It doubles with each attempt up to a maximum.

        It is multiplied by a factor in [0.5, 1), a hash of URL and attempt, so that callers do not retry at the same moment.
        """
        base = min(self._options.backoff_max_s, self._options.backoff_s * 2.0 ** min(attempt - 1, 30))
        digest = hashlib.blake2b(f"{os.getpid()}\x1f{url}\x1f{attempt}".encode(), digest_size=4).digest()
        return base * (0.5 + int.from_bytes(digest, "big") / 2**33)

    def _unavailable(self, reason: str, attempts: int, elapsed: float) -> UnavailableError:
        return UnavailableError(
            expected=f"an answer from {self._host} within {self._options.deadline_s:g} s",
            found=f"{reason} after {attempts} attempts in {elapsed:.1f} s",
            where=self._operation,
            action="check that the endpoint is up and reachable, then run the same command again",
        )


class _Body(io.BytesIO):
    """A request body that cannot be read after its deadline."""

    def __init__(self, data: bytes, stop: float) -> None:
        super().__init__(data)
        self._stop = stop

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next block, or raise when the deadline has passed."""
        if time.monotonic() > self._stop:
            raise urllib3.exceptions.TimeoutError(f"the request was still being sent after {self.tell()} bytes")
        return super().read(size)


def connection_pool(certificates: str) -> urllib3.PoolManager:
    """Return the pool that operations share. `certificates` is the path of a CA bundle."""
    return urllib3.PoolManager(maxsize=64, cert_reqs="CERT_REQUIRED", ca_certs=certificates, blocksize=_BLOCK_BYTES)


def _is_certificate(error: BaseException) -> bool:
    return isinstance(error, SSLError) and any(isinstance(a, ssl.SSLCertVerificationError) for a in error.args)


def without_query(text: str) -> str:
    """Remove the part of each URL after '?', because presigned URLs have their signature there."""
    return text.partition("?")[0]


def _is_request_timeout(response: urllib3.HTTPResponse) -> bool:
    return response.status == 400 and _REQUEST_TIMEOUT in (response.data or b"")
