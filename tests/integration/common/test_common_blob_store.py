"""Pictures in a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NoReturn

import pytest
from integration.common.makers import new_bucket_name, new_ref
from pydantic import SecretStr
from structlog.testing import capture_logs

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import Blob, BlobHead, BlobStore
from sd_common.errors import BlobNotFound, BlobTaken, StoreFull, Unavailable
from sd_common.metrics import ProcessMetrics
from sd_common.s3_client import MinioSettings
from sd_common.subjects import TaskRef
from support.metrics import Page
from support.servers import S3Server


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "image/webp"])
async def test_a_blob_comes_back_as_it_was_put(content_type: str, blob_store: BlobStore) -> None:
    blob_id, data = new_blob_id(), os.urandom(100_000)
    await blob_store.put(blob_id, data, content_type)
    blob = await blob_store.get(blob_id)
    assert blob == Blob(data, content_type, blob.etag)
    assert blob.etag == hashlib.md5(data).hexdigest()
    await blob_store.check_exists(blob_id)


async def test_putting_again_overwrites(blob_store: BlobStore) -> None:
    blob_id = new_blob_id()
    await blob_store.put(blob_id, b"first", "image/jpeg")
    before = await blob_store.get(blob_id)
    await blob_store.put(blob_id, b"second", "image/png")
    after = await blob_store.get(blob_id)
    assert (after.data, after.content_type) == (b"second", "image/png")
    assert after.etag != before.etag


async def test_a_task_overwrites_what_its_earlier_attempt_made(blob_store: BlobStore) -> None:
    blob_id, ref = new_blob_id(), new_ref()
    await blob_store.put_made(blob_id, b"first", "image/png", ref)
    await blob_store.put_made(blob_id, b"second", "image/png", ref)
    assert (await blob_store.get(blob_id)).data == b"second"


@pytest.mark.parametrize(
    "of", [TaskRef("alice", "s", "other"), TaskRef("bob", "s", "task"), TaskRef("alice", "other", "task"), None]
)
async def test_a_task_overwrites_no_other_picture(of: TaskRef | None, blob_store: BlobStore) -> None:
    blob_id = new_blob_id()
    if of:
        await blob_store.put_made(blob_id, b"first", "image/png", of)
    else:  # an upload
        await blob_store.put(blob_id, b"first", "image/png")
    with pytest.raises(BlobTaken, match=blob_id):
        await blob_store.put_made(blob_id, b"second", "image/png", TaskRef("alice", "s", "task"))
    assert (await blob_store.get(blob_id)).data == b"first"


async def test_bytes_are_admitted_before_they_are_read(blob_store: BlobStore) -> None:
    blob_id, data = new_blob_id(), os.urandom(200_000)
    await blob_store.put(blob_id, data, "image/png")
    admitted: list[int] = []
    assert (await blob_store.get(blob_id, admitted.append)).data == data
    assert admitted == [len(data)]

    def refuse(num_bytes: int) -> NoReturn:
        raise MemoryError(num_bytes)

    with pytest.raises(MemoryError):
        await blob_store.get(blob_id, refuse)


async def test_of_a_blob_that_is_known_no_bytes_are_read(blob_store: BlobStore) -> None:
    blob_id, data = new_blob_id(), os.urandom(200_000)
    await blob_store.put(blob_id, data, "image/png")
    admitted: list[int] = []
    etag = hashlib.md5(data).hexdigest()
    for _ in range(20):  # more often than there are connections
        known = await blob_store.get(blob_id, admitted.append, lambda told: told == etag)
        assert known == Blob(b"", "image/png", etag)
    assert admitted == []
    assert (await blob_store.get(blob_id, admitted.append, lambda told: told != etag)).data == data


@pytest.mark.parametrize("size", [0, 3, 200_000])
async def test_the_head_of_a_blob_tells_what_it_is(size: int, blob_store: BlobStore) -> None:
    blob_id, data = new_blob_id(), os.urandom(size)
    await blob_store.put(blob_id, data, "image/png")
    assert await blob_store.head(blob_id) == BlobHead(data[:16], size, (await blob_store.get(blob_id)).etag)


class _ServerWithoutLengths(BaseHTTPRequestHandler):
    """Says by the end of the connection where the end of a picture is, as no S3 server known to us does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes(200_000))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


async def test_bytes_that_come_without_their_number_are_admitted_as_they_come(minio_settings: MinioSettings) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ServerWithoutLengths) as server:
        threading.Thread(target=server.serve_forever).start()
        settings = minio_settings.model_copy(update={"minio_endpoint": f"127.0.0.1:{server.server_port}"})
        admitted: list[int] = []
        try:
            async with BlobStore(settings) as blobs:
                assert (await blobs.get(new_blob_id(), admitted.append)).data == bytes(200_000)
        finally:
            server.shutdown()
    assert sum(admitted) == 200_000
    assert max(admitted) <= 64 * 1024


async def test_a_blob_that_is_not_there_is_told(blob_store: BlobStore) -> None:
    blob_id = new_blob_id()
    with pytest.raises(BlobNotFound, match=blob_id):
        await blob_store.get(blob_id)
    with pytest.raises(BlobNotFound, match=blob_id):
        await blob_store.check_exists(blob_id)
    with pytest.raises(BlobNotFound, match=blob_id):
        await blob_store.head(blob_id)


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024 + 1, 20 * 1024 * 1024])
async def test_blobs_of_every_size_are_kept(size: int, blob_store: BlobStore) -> None:
    """minio puts in parts what is larger than 5 MiB."""
    blob_id, data = new_blob_id(), bytes(size)
    await blob_store.put(blob_id, data, "image/png")
    assert (await blob_store.get(blob_id)).data == data


async def test_a_hundred_at_once_do_not_mix(blob_store: BlobStore) -> None:
    blobs = {new_blob_id(): os.urandom(20_000) for _ in range(100)}
    await asyncio.gather(*(blob_store.put(blob_id, data, "image/png") for blob_id, data in blobs.items()))
    read = await asyncio.gather(*map(blob_store.get, blobs))
    assert [blob.data for blob in read] == list(blobs.values())


async def test_without_its_bucket_the_store_is_not_available(s3_server: S3Server) -> None:
    async with BlobStore(s3_server.minio_settings(new_bucket_name())) as blobs:
        with pytest.raises(Unavailable):
            await blobs.check_available()
        with pytest.raises(Unavailable):
            await blobs.put(new_blob_id(), b"data", "image/png")


async def test_with_wrong_credentials_the_store_is_not_available(minio_settings: MinioSettings) -> None:
    settings = minio_settings.model_copy(update={"minio_secret_key": SecretStr("wrong-wrong-wrong")})
    async with BlobStore(settings) as blobs:
        for call in (blobs.get(new_blob_id()), blobs.check_available(), blobs.put(new_blob_id(), b"x", "image/png")):
            with pytest.raises(Unavailable):
                await call


async def test_a_server_that_is_away_is_told_quickly(minio_settings: MinioSettings, refusing_endpoint: str) -> None:
    settings = minio_settings.model_copy(update={"minio_endpoint": refusing_endpoint})
    metrics = ProcessMetrics()
    async with BlobStore(settings, metrics=metrics.s3) as blobs, asyncio.timeout(10):
        for call in (
            blobs.get(new_blob_id()),
            blobs.put(new_blob_id(), b"data", "image/png"),
            blobs.check_exists(new_blob_id()),
            blobs.check_available(),
        ):
            with pytest.raises(Unavailable, match=r"^The picture store does not answer at the moment"):
                await call
    page = Page.of(metrics.registry)
    for operation in ("get", "put", "check_exists", "check_available"):
        assert page.value("sd_s3_errors_total", operation=operation) == 1
        assert page.value("sd_s3_request_seconds_count", operation=operation) == 1


class _FullServer(BaseHTTPRequestHandler):
    """Answers as MinIO does, which does not run here."""

    status, code = 507, "XMinioStorageFull"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = f"<Error><Code>{self.code}</Code><Message>No space</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _ServerAtItsQuota(_FullServer):
    status, code = 400, "XMinioAdminBucketQuotaExceeded"


@pytest.mark.parametrize("answers", [_FullServer, _ServerAtItsQuota])
async def test_a_store_that_is_full_is_told_at_once(minio_settings: MinioSettings, answers: type[_FullServer]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever).start()
        settings = minio_settings.model_copy(update={"minio_endpoint": f"127.0.0.1:{server.server_port}"})
        async with BlobStore(settings) as blobs:
            with capture_logs() as logs, pytest.raises(StoreFull, match=r"^The picture store has no room left"):
                await blobs.put(new_blob_id(), b"data", "image/png")
        server.shutdown()
    assert [(line["event"], line["code"]) for line in logs] == [("s3_error", answers.code)]


async def test_a_blob_that_is_not_there_is_no_error_of_the_store(minio_settings: MinioSettings) -> None:
    metrics = ProcessMetrics()
    async with BlobStore(minio_settings, metrics=metrics.s3) as blobs:
        with pytest.raises(BlobNotFound):
            await blobs.get(new_blob_id())
    page = Page.of(metrics.registry)
    assert page.value("sd_s3_errors_total", operation="get") == 0
    assert page.value("sd_s3_request_seconds_count", operation="get") == 1


async def test_the_event_loop_is_not_blocked_by_transfers(blob_store: BlobStore) -> None:
    putting = asyncio.gather(*(blob_store.put(new_blob_id(), bytes(1_000_000), "image/png") for _ in range(10)))
    turns = 0
    while not putting.done():
        await asyncio.sleep(0)
        turns += 1
    await putting
    assert turns > 10
