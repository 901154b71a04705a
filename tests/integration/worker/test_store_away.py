"""A worker whose store is away, or does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from integration.worker.conftest import BASE_URL, StartWorker, Tasks, worker_settings
from structlog.testing import capture_logs

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.blob_urls import blob_url
from sd_common.jobs import Job
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Img2ImgParameters
from sd_common.picture_bucket import create_bucket
from sd_common.s3_client import MinioSettings, S3Client
from sd_embedded.s3_server import S3Server
from sd_worker.app import WorkerApp
from support.logs import until_logged
from support.servers import own_s3_server

#: Far below ack_wait.
_SOON_S = 15.0


async def _publish_img2img(tasks: Tasks, blobs: BlobStore, png: bytes) -> None:
    initial = new_blob_id()
    await blobs.put(initial, png, "image/png")
    parameters = Img2ImgParameters(prompt="x", model="tiny", steps=2, initial_image=blob_url(BASE_URL, initial))
    job = Job(task_id="t", user="service", session="batch", blob_id=new_blob_id(), parameters=parameters)
    await tasks.queue.publish(job)


@pytest_asyncio.fixture
async def png(start_worker: StartWorker, tasks: Tasks, blob_store: BlobStore) -> bytes:
    """A picture."""
    worker = await start_worker("painter")
    job = await tasks.publish("painted")
    await tasks.wait_for("painted", "finished")
    await worker.stop()
    return (await blob_store.get(job.blob_id)).data


class SilentStore:
    """Takes connections, and never answers."""

    async def start(self) -> str:
        """Its endpoint."""
        self._writers: list[asyncio.StreamWriter] = []
        self.was_asked = asyncio.Event()
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _on_connection(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.was_asked.set()


async def test_a_task_whose_pictures_are_being_fetched_is_handed_back_at_once(
    provisioned: NatsSettings,
    minio_settings: MinioSettings,
    start_worker: StartWorker,
    model_dir: Path,
    tasks: Tasks,
    blob_store: BlobStore,
    png: bytes,
) -> None:
    silent = SilentStore()
    settings = minio_settings.model_copy(update={"minio_endpoint": await silent.start()})
    one = WorkerApp(worker_settings(model_dir, "one"), provisioned, settings)
    await one.start()
    await _publish_img2img(tasks, blob_store, png)
    await tasks.wait_for("t", "started")
    stopping = asyncio.create_task(one.stop())
    async with asyncio.timeout(_SOON_S):
        await tasks.wait_for("t", "pending")
    silent.stop()
    await start_worker("two")
    await tasks.wait_for("t", "finished")
    assert await tasks.starts_and_returns("t") == [
        ("pending", 0),
        ("started", "one"),
        ("pending", 0),
        ("started", "two"),
    ]
    await stopping


async def test_a_picture_that_cannot_be_stored_does_not_hold_up_the_end_of_a_drain(
    provisioned: NatsSettings, minio_settings: MinioSettings, model_dir: Path, tasks: Tasks, start_worker: StartWorker
) -> None:
    silent = SilentStore()
    settings = minio_settings.model_copy(update={"minio_endpoint": await silent.start()})
    one = WorkerApp(worker_settings(model_dir, "one", drain_timeout_s=0.5), provisioned, settings)
    await one.start()
    await tasks.publish("t")
    await silent.was_asked.wait()
    stopping = asyncio.create_task(one.stop())
    async with asyncio.timeout(_SOON_S):
        await tasks.wait_for("t", "pending")
    silent.stop()
    async with asyncio.timeout(_SOON_S):
        await stopping
    await start_worker("two")
    await tasks.wait_for("t", "finished")
    assert await tasks.starts_and_returns("t") == [
        ("pending", 0),
        ("started", "one"),
        ("pending", 0),
        ("started", "two"),
    ]


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[S3Server]:
    """A store of its own, with a bucket: for a test to kill and to start again."""
    with own_s3_server(tmp_path) as server:
        async with S3Client(server.minio_settings()) as s3:
            await create_bucket(s3)
        yield server


async def test_a_picture_is_stored_when_the_store_comes_back(
    provisioned: NatsSettings, tasks: Tasks, model_dir: Path, store: S3Server
) -> None:
    store.kill()
    worker = WorkerApp(worker_settings(model_dir), provisioned, store.minio_settings())
    await worker.start()
    job = await tasks.publish("stored-late")
    await tasks.wait_for("stored-late", "started")
    store.start()
    await tasks.wait_for("stored-late", "finished")
    async with BlobStore(store.minio_settings()) as blobs:
        assert (await blobs.get(job.blob_id)).content_type == "image/png"
    await worker.stop()


async def test_a_worker_whose_store_is_away_has_ended_soon_after_its_drain_timeout(
    provisioned: NatsSettings, tasks: Tasks, model_dir: Path, store: S3Server
) -> None:
    store.kill()
    worker = WorkerApp(worker_settings(model_dir, drain_timeout_s=0.5), provisioned, store.minio_settings())
    with capture_logs() as lines:
        await worker.start()
        await tasks.publish("t")
        await until_logged(lines, "upload_retried")
    async with asyncio.timeout(0.5 + _SOON_S):
        await worker.stop()
    assert await tasks.starts_and_returns("t") == [("pending", 0), ("started", "worker"), ("pending", 0)]


async def test_a_store_that_stays_away_costs_no_attempt(
    provisioned: NatsSettings, tasks: Tasks, model_dir: Path, store: S3Server, png: bytes
) -> None:
    async with BlobStore(store.minio_settings()) as blobs:
        await _publish_img2img(tasks, blobs, png)
    store.kill()
    worker = WorkerApp(worker_settings(model_dir, max_attempts=1), provisioned, store.minio_settings())
    await worker.start()
    await tasks.wait_for("t", "started")
    await tasks.wait_for("t", "pending")
    store.start()
    await tasks.wait_for("t", "finished")
    await worker.stop()
