"""`S3Store`: an object store in an S3-compatible service, over the `minio` client.

Objects larger than one part are moved by several requests at a time. `instar.store_requests` retries failures that can pass:
a refused, dropped or stalled connection, and the statuses 429 and 5xx. They become `UnavailableError` at the deadline. Other
failures are raised at once.

`create` and `swap` are conditional PUTs (`instar.store_conditional`).
"""

from __future__ import annotations

import io
import itertools
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import urllib3
from minio import Minio
from minio.error import S3Error

from instar.errors import ArtifactError, InstarError, StorageError, UnavailableError
from instar.store_conditional import ABSENT, conditional_put, new_nonce
from instar.store_endpoint import Endpoint
from instar.store_files import Tagged, check_name, check_prefix, missing, storage_errors
from instar.store_requests import Requests, S3Options, connection_pool, without_query

MIN_UPLOAD_PART_BYTES = 5 << 20
PROBE = "instar-probe"
CONTRADICTIONS = 4
"""How often a service may contradict itself: it refuses a write because the object exists, and then denies that it exists."""


class S3Store:
    """Objects in `s3://bucket/prefix`. Threads may share a store. A forked child opens its own connections."""

    def __init__(self, bucket: str, prefix: str, *, endpoint: Endpoint, options: S3Options | None = None) -> None:
        self.bucket = check_name(bucket)
        self.prefix = f"{check_name(prefix)}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._endpoint = endpoint
        self._options = options or S3Options()
        self._pool: tuple[int, urllib3.PoolManager] | None = None
        self._bucket_seen = False

    def __repr__(self) -> str:
        return f"S3Store({self.uri} at {self._endpoint.host})"

    def put_file(self, name: str, path: Path) -> None:
        """Upload a file, in parallel parts when it is larger than one part."""
        if not path.is_file():
            raise ArtifactError(expected="a file to store", found="nothing", where=str(path), action="check the path")
        with storage_errors(path), path.open("rb") as stream:
            self._upload(name, stream, path.stat().st_size)

    def put_bytes(self, name: str, data: bytes) -> None:
        """Upload bytes."""
        self._upload(name, io.BytesIO(data), len(data))

    def get_file(self, name: str, path: Path) -> None:
        """Download by parallel ranged reads into a temporary file beside `path`, then rename it."""
        temp = path.parent / f".{secrets.token_hex(8)}.tmp"
        with storage_errors(path):
            try:
                with temp.open("xb") as writer:
                    for offset, data in self._parts(name):
                        writer.seek(offset)
                        writer.write(data)
                    writer.flush()
                    os.fsync(writer.fileno())
                temp.rename(path)
            finally:
                temp.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """Return the bytes of an object."""
        return b"".join(data for _, data in self._parts(name))

    def exists(self, name: str) -> bool:
        """Return whether the object is there."""
        return self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Return the size in bytes, or None when there is no such object."""
        try:
            with self._client("HEAD", name) as (client, _):
                return int(client.stat_object(self.bucket, self._key(name)).size or 0)
        except ArtifactError:
            return None

    def create(self, name: str, data: bytes) -> bool:
        """Store `data` unless the name is taken, by a conditional PUT."""
        return self._put_if(name, data, {"If-None-Match": "*"})

    def read_tagged(self, name: str) -> Tagged | None:
        """Return the bytes of an object with their ETag, from one answer; None when there is no such object."""
        try:
            with self._client("GET", name) as (client, _):
                response = client.get_object(self.bucket, self._key(name))
        except ArtifactError:
            return None
        tag = response.headers.get("ETag", "")
        if not tag:
            raise self._refused("an object without an ETag", f"GET {self.uri}/{name}")
        return Tagged(data=response.data or b"", tag=tag)  # urllib3 has None for an empty body

    def swap(self, name: str, data: bytes, tag: str) -> bool:
        """Replace the object if its ETag is still `tag`, by a conditional PUT."""
        return self._put_if(name, data, {"If-Match": tag})

    def list(self, prefix: str) -> list[str]:
        """Return the sorted names that begin with `prefix`."""
        with self._client("LIST", check_prefix(prefix)) as (client, _):
            names: dict[str, None] = {}
            for item in client.list_objects(self.bucket, prefix=self.prefix + prefix, recursive=True):
                if item.is_dir:
                    continue
                object_name = str(item.object_name)
                if not object_name.startswith(self.prefix + prefix) or object_name in names:
                    raise self._refused(
                        f"a listing with {object_name[:200]!r} twice or without the prefix", f"LIST {self.uri}/{prefix}"
                    )
                names[object_name] = None
        return sorted(name[len(self.prefix) :] for name in names)

    def with_wrong_key(self) -> S3Store:
        """Return the same store with a wrong secret key. A check uses it: if it can do something, everybody can."""
        endpoint = replace(self._endpoint, secret_key="0" * 40)
        return S3Store(self.bucket, self.prefix.rstrip("/"), endpoint=endpoint, options=self._options)

    def _put_if(self, name: str, data: bytes, condition: dict[str, str]) -> bool:
        """Send a conditional PUT. Return True if this call's bytes were stored, even if somebody has replaced them since.

        If the condition fails, there must be an object, and its content type tells who wrote it. The service may contradict
        itself and answer that there is no object. Then the PUT is sent again, because the object may really be gone.
        """
        with self._client("conditional PUT", name) as (client, http):
            url = client.get_presigned_url("PUT", self.bucket, self._key(name), expires=timedelta(hours=1))
            nonce = new_nonce()
            for _ in range(CONTRADICTIONS):
                answer = conditional_put(http, url, data, {**condition, "Content-Type": nonce}, self._options.backoff_s)
                if answer is not None:
                    return answer
                content_type = self._content_type(client, name)
                if content_type is not None:
                    return content_type == nonce
                time.sleep(self._options.backoff_s)
        if "If-Match" in condition:
            return False  # there is no object that could have the tag
        raise UnavailableError(
            expected="an object, because the service refused to create one",
            found=f"no object, {CONTRADICTIONS} times in a row",
            where=f"{self.uri}/{name} at {self._endpoint.host}",
            action="run the same command again",
        )

    def _content_type(self, client: Minio, name: str) -> str | None:
        """Return the content type of an object, or None when there is no such object."""
        try:
            return client.stat_object(self.bucket, self._key(name)).content_type or ""
        except S3Error as error:
            if error.code in ABSENT:
                return None
            raise

    def _upload(self, name: str, stream: Any, length: int) -> None:
        part = max(self._options.part_bytes, MIN_UPLOAD_PART_BYTES)
        threads = self._options.num_threads
        for final in (False, True):
            stream.seek(0)
            try:
                with self._client("PUT", name) as (client, _):
                    done = client.put_object(
                        self.bucket, self._key(name), stream, length, part_size=part, num_parallel_uploads=threads
                    )
                if done.etag:
                    return
            except StorageError as error:
                # Start the upload again, once. The answer to "complete" was lost, or a restarted service forgot the upload.
                if final or "NoSuchUpload" not in error.found:
                    raise
        raise UnavailableError(
            expected="an ETag for the completed upload",
            found="an answer without an ETag (a service may report a failed completion with status 200)",
            where=f"PUT {self.uri}/{name} at {self._endpoint.host}",
            action="run the same command again",
        )

    def _parts(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) in order, with at most `num_threads` parts in flight. All parts are of the same version."""
        with self._client("GET", name) as (client, _):
            first, total, version = self._range(client, name, 0)
            yield 0, first
            offsets = iter(range(len(first), total, self._options.part_bytes))
            with ThreadPoolExecutor(self._options.num_threads) as pool:
                ahead = itertools.islice(offsets, self._options.num_threads)
                waiting = [(o, pool.submit(self._range, client, name, o)) for o in ahead]
                while waiting:
                    offset, future = waiting.pop(0)
                    data, size, tag = future.result()
                    expected = min(self._options.part_bytes, total - offset)
                    if (size, tag) != (total, version) or len(data) != expected:
                        raise self._changed(name)
                    following = next(offsets, None)
                    if following is not None:
                        waiting.append((following, pool.submit(self._range, client, name, following)))
                    yield offset, data

    def _range(self, client: Minio, name: str, offset: int) -> tuple[bytes, int, str]:
        """Return one part, the object's size and its ETag."""
        try:
            response = client.get_object(self.bucket, self._key(name), offset=offset, length=self._options.part_bytes)
        except S3Error as error:
            if error.code == "InvalidRange" and offset == 0:
                return b"", 0, ""  # the first byte of an empty object is out of range
            raise
        data, span = response.data or b"", response.headers.get("Content-Range", "")
        total = int(span.rpartition("/")[2]) if response.status == 206 else len(data)
        return data, total, response.headers.get("ETag", "")

    def _changed(self, name: str) -> UnavailableError:
        return UnavailableError(
            expected="an object that stays the same while it is read",
            found="parts of two versions",
            where=f"{self.uri}/{name}",
            action="read it again",
        )

    def _key(self, name: str) -> str:
        return self.prefix + check_name(name)

    def _require_bucket(self, client: Minio) -> None:
        """List once, because a listing fails clearly if the bucket is missing. HEAD does not tell the cause of a failure.

        A write does not fail on every service: SeaweedFS creates a missing bucket.
        """
        if not self._bucket_seen:
            next(iter(client.list_objects(self.bucket, prefix=self.prefix + PROBE)), None)
            self._bucket_seen = True

    @contextmanager
    def _client(self, operation: str, name: str) -> Iterator[tuple[Minio, Requests]]:
        """Yield the `minio` client of one operation and its HTTP client. Turn their errors into named ones."""
        where = f"{operation} {self.uri}/{name}"
        e = self._endpoint
        http = Requests(self._shared_pool(), self._options, e.host, f"{where} at {e.host}")
        client = Minio(
            e.host,
            access_key=e.access_key,
            secret_key=e.secret_key,
            session_token=e.session_token,
            secure=e.secure,
            region=e.region,
            http_client=http,
        )
        try:
            self._require_bucket(client)
            yield client, http
        except (InstarError, OSError):  # an OSError comes from the file on this machine that is sent
            raise
        except S3Error as error:
            if error.code in ABSENT:
                raise missing(name, self.uri) from error
            raise self._refused(f"{error.code}: {error.message}", where) from error
        except Exception as error:  # an invalid answer can raise any exception in the parser of the client
            raise self._refused(f"{type(error).__name__}: {without_query(str(error))[:300]}", where) from error

    def _refused(self, found: str, where: str) -> StorageError:
        return StorageError(
            expected="the service to accept the request",
            found=found,
            where=f"{where} at {self._endpoint.host}",
            action="check bucket, region, clock, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the key may do",
        )

    def _shared_pool(self) -> urllib3.PoolManager:
        if self._pool is None or self._pool[0] != os.getpid():
            certificates = os.environ.get("SSL_CERT_FILE") or certifi.where()
            self._pool = (os.getpid(), connection_pool(certificates))
        return self._pool[1]
