"""Pictures in a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from integration.common.makers import new_bucket_name, new_ref
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from prometheus_client import generate_latest
from pydantic import SecretStr
from structlog.testing import capture_logs

from sd_common.blob_store import Blob, BlobStore, new_blob_id
from sd_common.errors import BlobNotFound, BlobTaken, NoRoom, Unavailable
from sd_common.metrics import ProcessMetrics
from sd_common.settings import MinioSettings
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


async def test_a_blob_that_is_not_there_is_told(blob_store: BlobStore) -> None:
    blob_id = new_blob_id()
    with pytest.raises(BlobNotFound, match=blob_id):
        await blob_store.get(blob_id)
    with pytest.raises(BlobNotFound) as raised:
        await blob_store.check_exists(blob_id)
    assert raised.value.blob_id == blob_id


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


async def test_several_that_create_the_bucket_at_once_agree(s3_server: S3Server) -> None:
    async with BlobStore(s3_server.minio_settings(new_bucket_name())) as blobs:
        await asyncio.gather(*(blobs.create_bucket() for _ in range(10)))
        await blobs.create_bucket()
        await blobs.check_available()


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


@pytest.fixture
def s3_client(minio_settings: MinioSettings) -> Minio:
    """What an operator sets rules with."""
    return Minio(
        minio_settings.minio_endpoint,
        access_key=minio_settings.minio_access_key,
        secret_key=minio_settings.minio_secret_key.get_secret_value(),
        secure=False,
        region=minio_settings.minio_region,
    )


def _days_of(s3_client: Minio, bucket: str) -> dict[str | None, int | None]:
    lifecycle = s3_client.get_bucket_lifecycle(bucket)
    return {rule.rule_id: rule.expiration.days for rule in (lifecycle.rules if lifecycle else []) if rule.expiration}


async def test_a_max_age_is_set_changed_and_taken_away(
    blob_store: BlobStore, minio_settings: MinioSettings, s3_client: Minio
) -> None:
    bucket = minio_settings.minio_bucket
    for days in (None, 7, 7, 30):
        await blob_store.set_max_age(days)
        assert _days_of(s3_client, bucket) == ({} if days is None else {"pictures-max-age": days})
    blob_id = new_blob_id()
    await blob_store.put(blob_id, b"data", "image/png")
    assert (await blob_store.get(blob_id)).data == b"data"
    for _ in range(2):
        await blob_store.set_max_age(None)
        assert _days_of(s3_client, bucket) == {}


async def test_rules_of_the_operator_stay(
    blob_store: BlobStore, minio_settings: MinioSettings, s3_client: Minio
) -> None:
    bucket = minio_settings.minio_bucket
    own = Rule(ENABLED, rule_filter=Filter(prefix="backups/"), rule_id="own", expiration=Expiration(days=5))
    s3_client.set_bucket_lifecycle(bucket, LifecycleConfig([own]))
    await blob_store.set_max_age(7)
    assert _days_of(s3_client, bucket) == {"own": 5, "pictures-max-age": 7}
    await blob_store.set_max_age(None)
    assert _days_of(s3_client, bucket) == {"own": 5}


@pytest.fixture
def refusing_endpoint() -> Iterator[str]:
    """An address that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def test_a_server_that_is_away_is_told_quickly(minio_settings: MinioSettings, refusing_endpoint: str) -> None:
    settings = minio_settings.model_copy(update={"minio_endpoint": refusing_endpoint})
    metrics = ProcessMetrics()
    async with BlobStore(settings, metrics=metrics.s3) as blobs, asyncio.timeout(5):
        for call in (
            blobs.get(new_blob_id()),
            blobs.put(new_blob_id(), b"data", "image/png"),
            blobs.check_exists(new_blob_id()),
            blobs.check_available(),
            blobs.create_bucket(),
        ):
            with pytest.raises(Unavailable, match=r"^The picture store does not answer at the moment"):
                await call
    page = Page(generate_latest(metrics.registry).decode())
    for operation in ("get", "put", "check_exists", "check_available", "create_bucket"):
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
            with capture_logs() as logs, pytest.raises(NoRoom, match=r"^The picture store has no room left"):
                await blobs.put(new_blob_id(), b"data", "image/png")
        server.shutdown()
    assert [(line["event"], line["code"]) for line in logs] == [("s3_error", answers.code)]


async def test_a_blob_that_is_not_there_is_no_error_of_the_store(minio_settings: MinioSettings) -> None:
    metrics = ProcessMetrics()
    async with BlobStore(minio_settings, metrics=metrics.s3) as blobs:
        with pytest.raises(BlobNotFound):
            await blobs.get(new_blob_id())
    page = Page(generate_latest(metrics.registry).decode())
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
