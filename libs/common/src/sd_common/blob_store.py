"""Pictures in an S3 bucket, by their blob ids."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from minio import Minio
from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from sd_common.errors import BlobNotFound, BlobTaken, Unavailable
from sd_common.metrics import S3Metrics
from sd_common.s3_client import LONG_PATIENCE, PART, MinioSettings, Patience, S3Client
from sd_common.subjects import TaskRef

#: Of a picture that was made, among its metadata: the task that made it.
_MADE_BY = "made-by"
#: Read at once of what comes without its length.
_PIECE_BYTES = 64 * 1024
_BEGINNING_BYTES = 16


@dataclass(frozen=True)
class Blob:
    """Stored bytes of a picture."""

    data: bytes
    content_type: str
    etag: str


@dataclass(frozen=True)
class BlobHead:
    """What a blob is, without all of its bytes."""

    #: As many as tell what picture it is.
    beginning: bytes
    num_bytes: int
    etag: str


class BlobStore:
    """Blobs by id. Every call raises `Unavailable` where S3 does not answer, `StoreFull` where it is full."""

    def __init__(
        self, settings: MinioSettings, patience: Patience = LONG_PATIENCE, metrics: S3Metrics | None = None
    ) -> None:
        self._s3 = S3Client(settings, patience, metrics)
        self._bucket = settings.minio_bucket

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._s3.__aexit__(kind, error, traceback)

    async def put(self, blob_id: str, data: bytes, content_type: str) -> None:
        """Store `data`, in the place of what was there."""

        def put(minio: Minio) -> None:
            minio.put_object(self._bucket, blob_id, io.BytesIO(data), len(data), content_type=content_type)

        await self._s3.call("put", put)

    async def put_made(self, blob_id: str, data: bytes, content_type: str, ref: TaskRef) -> None:
        """Store what a task made, in the place of what its earlier attempts did. Raises `BlobTaken` where any other
        picture has the id: whoever publishes a job names the id, and may have seen it in somebody's URL."""
        made_by = f"{ref.user}.{ref.session}.{ref.task_id}"  # of another user, the same id is another task

        def put_made(minio: Minio) -> None:
            # Not `If-None-Match`, which S3 servers do not all know, and which would refuse a task's next attempt.
            try:
                with _missing_told(blob_id):
                    there = minio.stat_object(self._bucket, blob_id)
            except BlobNotFound:
                pass
            else:
                if (there.metadata or {}).get(f"x-amz-meta-{_MADE_BY}") != made_by:
                    raise BlobTaken(blob_id)
            minio.put_object(
                self._bucket,
                blob_id,
                io.BytesIO(data),
                len(data),
                content_type=content_type,
                metadata={_MADE_BY: made_by},
            )

        await self._s3.call("put", put_made)

    async def get(
        self,
        blob_id: str,
        admit: Callable[[int], None] = lambda num_bytes: None,
        is_known: Callable[[str], bool] = lambda etag: False,
    ) -> Blob:
        """The blob, or `BlobNotFound`. Both are called in a thread: `admit` is told how many bytes are read next, and
        raises where they are not to be; `is_known` is told the ETag, and where it says so none are read, and the data
        is empty."""

        def get(minio: Minio) -> Blob:
            with _missing_told(blob_id):
                response = minio.get_object(self._bucket, blob_id)
            try:
                etag = response.headers.get("ETag", "").strip('"')
                return Blob(
                    data=b"" if is_known(etag) else _read(response, admit),
                    content_type=response.headers.get("Content-Type", "application/octet-stream"),
                    etag=etag,
                )
            finally:
                response.close()
                response.release_conn()

        return await self._s3.call("get", get)

    async def head(self, blob_id: str) -> BlobHead:
        """What the blob is, or `BlobNotFound`."""

        def head(minio: Minio) -> BlobHead:
            with _missing_told(blob_id):
                there = minio.stat_object(self._bucket, blob_id)
                beginning = self._beginning(minio, blob_id) if there.size else b""  # of nothing there is no range
            return BlobHead(beginning, there.size or 0, there.etag or "")

        return await self._s3.call("head", head)

    def _beginning(self, minio: Minio, blob_id: str) -> bytes:
        response = minio.get_object(self._bucket, blob_id, length=_BEGINNING_BYTES)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    async def check_exists(self, blob_id: str) -> None:
        """Raise `BlobNotFound` where there is no such blob."""

        def stat(minio: Minio) -> None:
            with _missing_told(blob_id):
                minio.stat_object(self._bucket, blob_id)

        await self._s3.call("check_exists", stat)

    async def check_available(self) -> None:
        """Raise `Unavailable` where the bucket cannot be reached."""

        def check(minio: Minio) -> None:
            if not minio.bucket_exists(self._bucket):
                raise Unavailable(PART)

        await self._s3.call("check_available", check)


def _read(response: BaseHTTPResponse, admit: Callable[[int], None]) -> bytes:
    """The body, admitted as a whole before any of it is read, or as it comes where the server does not say how many
    bytes it has."""
    num_bytes = response.headers.get("Content-Length")
    if num_bytes is not None:
        admit(int(num_bytes))
        return response.read()
    data = bytearray()
    while piece := response.read(_PIECE_BYTES):
        admit(len(piece))
        data += piece
    return bytes(data)


@contextlib.contextmanager
def _missing_told(blob_id: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code in ("NoSuchKey", "NoSuchObject"):
            raise BlobNotFound(blob_id) from error
        raise
