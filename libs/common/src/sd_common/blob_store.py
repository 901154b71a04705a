"""Pictures in an S3 bucket, over the `minio` client, off the event loop."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import structlog
import urllib3
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import MinioException, S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule

from sd_common.errors import BlobNotFound, BlobTaken, NoRoom, Unavailable
from sd_common.metrics import S3Metrics
from sd_common.settings import MinioSettings
from sd_common.subjects import TaskRef

log = structlog.get_logger(__name__)

#: Transfers at once; the connection pool has as many places, so that none is opened and thrown away.
_MAX_TRANSFERS = 16
_CONNECT_TIMEOUT_S = 2.0
#: The id of the rule of the bucket's lifecycle that is ours.
_MAX_AGE_RULE = "pictures-max-age"
#: Of a picture that was made, among its metadata: the task that made it.
_MADE_BY = "made-by"
_PART = "The picture store"
_NOT_THERE = ("NoSuchKey", "NoSuchObject")
#: As MinIO says it of its disks and of a bucket's quota, and Ceph of a quota. SeaweedFS says `InternalError`.
_NO_ROOM = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded")

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """For how long a server that takes connections but does not answer is waited for."""

    #: Seconds without a byte, after which a transfer has failed.
    read_timeout_s: float
    #: Seconds within which a call ends, whatever it waits for: a place among the transfers too. None: no limit.
    call_timeout_s: float | None


#: For work that is under way, and would have to be done again.
LONG_PATIENCE = Patience(read_timeout_s=20.0, call_timeout_s=None)
#: For a client that waits, and can try again itself.
SHORT_PATIENCE = Patience(read_timeout_s=3.0, call_timeout_s=10.0)


@dataclass(frozen=True)
class Blob:
    """Stored bytes of a picture."""

    data: bytes
    content_type: str
    etag: str


def new_blob_id() -> str:
    """An id nobody can guess (192 bits): whoever knows it may see the picture."""
    return secrets.token_urlsafe(24)


class BlobStore:
    """Blobs by id. Every call raises `Unavailable` where the S3 server does not answer; `NoRoom` where it says so."""

    def __init__(
        self, settings: MinioSettings, patience: Patience = LONG_PATIENCE, metrics: S3Metrics | None = None
    ) -> None:
        self._metrics = metrics or S3Metrics()
        self._bucket = settings.minio_bucket
        self._call_timeout_s = patience.call_timeout_s
        self._pool = urllib3.PoolManager(
            maxsize=_MAX_TRANSFERS,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=patience.read_timeout_s),
            # A server that has just started answers with an error status until it finds its volumes.
            retries=urllib3.Retry(
                total=5,
                connect=2,
                read=0,  # it had its time; who has more to give tries again
                backoff_factor=0.1,
                status_forcelist=(500, 502, 503, 504),
                raise_on_status=False,  # what the server says is logged
            ),
        )
        self._client = Minio(
            settings.minio_endpoint,
            access_key=settings.minio_access_key,
            secret_key=settings.minio_secret_key.get_secret_value(),
            secure=settings.minio_secure,
            region=settings.minio_region,
            http_client=self._pool,
        )
        self._threads = ThreadPoolExecutor(_MAX_TRANSFERS, thread_name_prefix="blobs")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._pool.clear()

    async def create_bucket(self) -> None:
        """Create the bucket where there is none."""

        def create() -> None:
            if not self._client.bucket_exists(self._bucket):
                try:
                    self._client.make_bucket(self._bucket)
                except S3Error as error:
                    if error.code != "BucketAlreadyOwnedByYou":  # somebody was first
                        raise

        await self._run("create_bucket", create)

    async def set_max_age(self, days: int | None) -> None:
        """Have the server delete blobs that are older, or none. Other rules of the bucket's lifecycle stay."""

        def set_rule() -> None:
            lifecycle = self._client.get_bucket_lifecycle(self._bucket)
            before = lifecycle.rules if lifecycle else []
            rules = [rule for rule in before if rule.rule_id != _MAX_AGE_RULE]
            if days is not None:
                every_blob, expiration = Filter(prefix=""), Expiration(days=days)
                rules.append(Rule(ENABLED, rule_filter=every_blob, rule_id=_MAX_AGE_RULE, expiration=expiration))
            if rules:
                self._client.set_bucket_lifecycle(self._bucket, LifecycleConfig(rules))
            elif before:
                self._client.delete_bucket_lifecycle(self._bucket)

        await self._run("set_max_age", set_rule)

    async def put(self, blob_id: str, data: bytes, content_type: str) -> None:
        """Store `data`, in the place of what was there."""

        def put() -> None:
            self._client.put_object(self._bucket, blob_id, io.BytesIO(data), len(data), content_type=content_type)

        await self._run("put", put)

    async def put_made(self, blob_id: str, data: bytes, content_type: str, ref: TaskRef) -> None:
        """Store what a task made, in the place of what its earlier attempts did. Raises `BlobTaken` where any other
        picture has the id: whoever publishes a job names the id, and may have seen it in somebody's URL."""
        made_by = f"{ref.user}.{ref.session}.{ref.task_id}"  # of another user, the same id is another task

        def put_made() -> None:
            # Not `If-None-Match`, which S3 servers do not all know, and which would refuse a task's next attempt.
            try:
                there = self._client.stat_object(self._bucket, blob_id)
            except S3Error as error:
                if error.code not in _NOT_THERE:
                    raise
            else:
                if (there.metadata or {}).get(f"x-amz-meta-{_MADE_BY}") != made_by:
                    raise BlobTaken(blob_id)
            self._client.put_object(
                self._bucket,
                blob_id,
                io.BytesIO(data),
                len(data),
                content_type=content_type,
                metadata={_MADE_BY: made_by},
            )

        await self._run("put", put_made)

    async def get(self, blob_id: str) -> Blob:
        """The blob, or `BlobNotFound`."""

        def get() -> Blob:
            response = self._client.get_object(self._bucket, blob_id)
            try:
                return Blob(
                    data=response.read(),
                    content_type=response.headers.get("Content-Type", "application/octet-stream"),
                    etag=response.headers.get("ETag", "").strip('"'),
                )
            finally:
                response.close()
                response.release_conn()

        return await self._run("get", get, blob_id)

    async def check_exists(self, blob_id: str) -> None:
        """Raise `BlobNotFound` where there is no such blob."""

        def stat() -> None:
            self._client.stat_object(self._bucket, blob_id)

        await self._run("check_exists", stat, blob_id)

    async def check_available(self) -> None:
        """Raise `Unavailable` where the bucket cannot be reached."""

        def check() -> None:
            if not self._client.bucket_exists(self._bucket):
                raise Unavailable(_PART)

        await self._run("check_available", check)

    async def _run(self, operation: str, call: Callable[[], T], blob_id: str = "") -> T:
        with self._metrics.timed(operation):
            return await self._call(operation, call, blob_id)

    async def _call(self, operation: str, call: Callable[[], T], blob_id: str) -> T:
        try:
            async with asyncio.timeout(self._call_timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except S3Error as error:
            if error.code in _NOT_THERE:
                raise BlobNotFound(blob_id) from error
            # Wrong credentials, no such bucket, a full disk.
            log.warning("s3_error", operation=operation, code=error.code, message=error.message)
            raise (NoRoom if error.code in _NO_ROOM else Unavailable)(_PART) from error
        except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unavailable(_PART) from error
