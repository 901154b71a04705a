"""A store is full: workers keep their jobs, and go on where there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from integration.worker.conftest import StartWorker, Tasks
from structlog.testing import capture_logs

from sd_common import retries
from sd_common.blob_store import BlobStore
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.s3_client import MinioSettings
from support.logs import until_logged
from support.servers import NatsServer
from support.small_stores import SMALL_STREAMS, SmallS3Server, fill, make_room, small_nats_server, small_s3_server


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    with small_nats_server(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def provisioned(nats_client: NatsClient, nats_settings: NatsSettings) -> NatsSettings:
    await provision_streams(nats_client.jetstream(), SMALL_STREAMS)
    return nats_settings


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[SmallS3Server]:
    with small_s3_server(tmp_path) as server:
        yield server


async def test_a_job_that_no_event_can_be_told_of_is_kept(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_MAX_PAUSE_S", 0.1)
    await tasks.publish("kept")
    await fill(nats_client)
    with capture_logs() as lines:
        await start_worker()
        await until_logged(lines, "job", ending="handed_back")
    assert await tasks.event_types("kept") == []
    await make_room(nats_client.jetstream())
    await tasks.wait_for("kept", "finished")
    assert await tasks.event_types("kept") == ["pending", "started", "finished"]
    await tasks.wait_until_queue_is_empty()


async def test_a_task_that_runs_as_nats_fills_up_ends_when_there_is_room(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    with capture_logs() as lines:
        await start_worker()
        await tasks.publish("running", steps=200)
        await tasks.wait_until_begun("running")
        await fill(nats_client)
        await until_logged(lines, "nats_store_full", subject="events.service.batch.running")
    assert await tasks.event_types("running") == ["pending", "started"]
    await make_room(nats_client.jetstream())
    await tasks.wait_for("running", "finished")
    assert await tasks.event_types("running") == ["pending", "started", "finished"]
    await tasks.wait_until_queue_is_empty()


async def test_a_picture_that_finds_no_room_is_stored_when_there_is(
    start_worker: StartWorker, tasks: Tasks, minio_settings: MinioSettings, s3_server: SmallS3Server
) -> None:
    await s3_server.fill(minio_settings)
    with capture_logs() as lines:
        await start_worker()
        job = await tasks.publish("stored-late", width=256, height=256)
        await until_logged(lines, "upload_retried")
    assert await tasks.event_types("stored-late") == ["pending", "started"]
    await asyncio.to_thread(s3_server.give_room)
    await tasks.wait_for("stored-late", "finished")
    async with BlobStore(minio_settings) as blobs:
        assert (await blobs.get(job.blob_id)).content_type == "image/png"
