"""The bucket of pictures at an S3 server, over the `minio` client, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Self, TypeVar

import structlog
import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from pydantic import Field, SecretStr

from sd_common.errors import StoreFull, Unavailable
from sd_common.metrics import S3Metrics
from sd_common.settings import Flag, Settings, matching

log = structlog.get_logger(__name__)

#: Transfers at once; the connection pool has as many places, so that none is opened and thrown away.
_MAX_TRANSFERS = 16
_CONNECT_TIMEOUT_S = 2.0
#: As MinIO says it of its disks and of a bucket's quota, and Ceph of a quota. SeaweedFS says `InternalError`.
_STORE_FULL = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded")
#: What `Unavailable` names.
PART = "The picture store"

T = TypeVar("T")


class MinioSettings(Settings):
    """Where pictures are stored: any S3 server."""

    minio_endpoint: Annotated[str, matching("[^/]+", "must be host:port, without a scheme and a path")] = Field(
        default="127.0.0.1:9000", description="host:port of the S3 server."
    )
    minio_access_key: str = Field(description="Access key of the S3 server.")
    minio_secret_key: SecretStr = Field(description="Secret key of the S3 server.")
    minio_bucket: str = Field(default="pictures", min_length=3, description="Bucket of the pictures.")
    minio_secure: Flag = Field(default=False, description="Whether to speak TLS with the S3 server.")
    minio_region: str = Field(default="us-east-1", description="Region; without one, signing asks the server for it.")


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


class S3Client:
    """Calls of an S3 server, each in a thread."""

    def __init__(
        self, settings: MinioSettings, patience: Patience = LONG_PATIENCE, metrics: S3Metrics | None = None
    ) -> None:
        self.bucket = settings.minio_bucket
        self._metrics = metrics or S3Metrics()
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
        self._minio = Minio(
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

    async def call(self, operation: str, call: Callable[[Minio], T]) -> T:
        """What `call` returns, or raises itself; counted as `operation`, which is one of the code's own names. Raises
        `StoreFull` where the server says so, `Unavailable` where it does not answer, or refuses."""
        with self._metrics.timed(operation):
            try:
                async with asyncio.timeout(self._call_timeout_s):
                    return await asyncio.get_running_loop().run_in_executor(self._threads, call, self._minio)
            except S3Error as error:
                # Wrong credentials, no such bucket, a full disk.
                log.warning("s3_error", operation=operation, code=error.code, message=error.message)
                raise (StoreFull if error.code in _STORE_FULL else Unavailable)(PART) from error
            except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
                raise Unavailable(PART) from error
