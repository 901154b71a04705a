"""A worker that is told to stop: other workers have what it has not begun, at once, and it costs no attempt."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
import pytest_asyncio
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined] # exported at run time
from integration.worker.conftest import BASE_URL, PATIENCE_S, StartWorker, Tasks, worker_settings
from integration.worker.hub_sources import NAME

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.blob_urls import blob_url
from sd_common.events import PendingEvent, StartedEvent
from sd_common.jobs import Job
from sd_common.messages import now
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Img2ImgParameters
from sd_common.picture_bucket import create_bucket
from sd_common.s3_client import MinioSettings, S3Client
from sd_common.streams import JOBS
from sd_embedded.s3_server import S3Server
from sd_worker.app import WorkerApp
from support.hub import Hub

#: Far below ack_wait.
_SOON_S = 5.0
#: From SIGTERM until another worker has started what was handed back.
_HANDED_OVER_WITHIN_S = 1.0


async def _told(tasks: Tasks, task_id: str) -> list[tuple[str, int | str]]:
    """`started` events with their worker, `pending` ones with the attempts that count."""
    told: list[tuple[str, int | str]] = []
    for logged in await tasks.events(task_id):
        match logged.event:
            case PendingEvent(num_attempts=num_attempts):
                told.append(("pending", num_attempts))
            case StartedEvent(worker=worker, attempt=1):
                told.append(("started", worker))
    return told


async def test_what_waits_for_room_is_at_another_worker_soon_while_the_rest_ends_here(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    one = await start_worker("one", max_rows=8)
    running = [f"running-{number}" for number in range(4)]  # with guidance, they fill a pass
    for task_id in (*running, "waiting"):
        await tasks.publish(task_id, steps=60)
        await tasks.wait_for(task_id, "started")
    for task_id in running:
        await tasks.wait_until_begun(task_id)
    stopping = asyncio.create_task(one.stop())
    async with asyncio.timeout(_SOON_S):
        await tasks.wait_for("waiting", "pending")
    assert not stopping.done()
    await start_worker("two")
    await stopping
    await tasks.wait_for("waiting", "finished")
    assert await _told(tasks, "waiting") == [("pending", 0), ("started", "one"), ("pending", 0), ("started", "two")]
    for task_id in running:
        assert (await tasks.wait_for(task_id, "finished")).event.event_type == "finished"
        assert await _told(tasks, task_id) == [("pending", 0), ("started", "one")]
    await tasks.wait_until_queue_is_empty()


async def test_what_is_handed_back_runs_at_a_worker_that_is_idle_within_a_second(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    one = await start_worker("one", max_rows=8)
    for number in range(4):  # with guidance, they fill a pass
        await tasks.publish(f"running-{number}", steps=400)
        await tasks.wait_until_begun(f"running-{number}")
    await tasks.publish("waiting")
    await tasks.wait_for("waiting", "started")
    await start_worker("two", preload_models=("tiny",))
    async with asyncio.timeout(PATIENCE_S):  # the first has no room: the second has a pull open
        while not (await nats_client.jetstream().consumer_info(JOBS, model_key("tiny"))).num_waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    told_at = now()
    stopping = asyncio.create_task(one.stop())
    await tasks.wait_for("waiting", "finished")
    started = [event.event for event in await tasks.events("waiting") if isinstance(event.event, StartedEvent)]
    assert [event.worker for event in started] == ["one", "two"]
    assert (started[-1].time - told_at).total_seconds() <= _HANDED_OVER_WITHIN_S
    await stopping


async def test_a_task_whose_model_is_being_downloaded_is_handed_back_at_once(
    start_worker: StartWorker, tasks: Tasks, hub: Hub, tiny: Path, tmp_path: Path
) -> None:
    hub.add(NAME, tiny)
    content = (tiny / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    locks = tmp_path / "cache" / ".locks" / "models--owner--tiny"
    locks.mkdir(parents=True)
    with WeakFileLock(locks / f"{hashlib.sha256(content).hexdigest()}.lock"):  # the download goes no further
        one = await start_worker("one")
        await tasks.publish("t", model=NAME)
        await tasks.wait_for("t", "started")
        async with asyncio.timeout(_SOON_S):
            await one.stop()
        await start_worker("two")
        await tasks.wait_for("t", "started")
    await tasks.wait_for("t", "finished")
    assert await _told(tasks, "t") == [("pending", 0), ("started", "one"), ("pending", 0), ("started", "two")]


async def _publish_img2img(tasks: Tasks, blobs: BlobStore, png: bytes) -> Job:
    initial = new_blob_id()
    await blobs.put(initial, png, "image/png")
    parameters = Img2ImgParameters(prompt="x", model="tiny", steps=2, initial_image=blob_url(BASE_URL, initial))
    job = Job(task_id="t", user="service", session="batch", blob_id=new_blob_id(), parameters=parameters)
    await tasks.queue.publish(job)
    return job


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
    assert await _told(tasks, "t") == [("pending", 0), ("started", "one"), ("pending", 0), ("started", "two")]
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
    assert await _told(tasks, "t") == [("pending", 0), ("started", "one"), ("pending", 0), ("started", "two")]


async def test_a_worker_whose_store_is_away_has_ended_soon_after_its_drain_timeout(
    provisioned: NatsSettings, tasks: Tasks, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = S3Server(tmp_path, "test", "0123456789abcdef0123")
    server.start()
    server.kill()
    worker = WorkerApp(worker_settings(model_dir, drain_timeout_s=0.5), provisioned, server.minio_settings("pictures"))
    await worker.start()
    await tasks.publish("t")
    async with asyncio.timeout(PATIENCE_S):
        while "upload_retried" not in capsys.readouterr().out:  # noqa: ASYNC110 - it only logs
            await asyncio.sleep(0.02)
    async with asyncio.timeout(0.5 + _SOON_S):
        await worker.stop()
    assert await _told(tasks, "t") == [("pending", 0), ("started", "worker"), ("pending", 0)]


async def test_a_store_that_stays_away_costs_no_attempt(
    provisioned: NatsSettings, tasks: Tasks, model_dir: Path, tmp_path: Path, png: bytes
) -> None:
    server = S3Server(tmp_path, "test", "0123456789abcdef0123")
    server.start()
    settings = server.minio_settings("pictures")
    async with S3Client(settings) as s3, BlobStore(settings) as blobs:
        await create_bucket(s3)
        await _publish_img2img(tasks, blobs, png)
        server.kill()
        worker = WorkerApp(worker_settings(model_dir, max_attempts=1), provisioned, settings)
        await worker.start()
        await tasks.wait_for("t", "started")
        await tasks.wait_for("t", "pending")
        server.start()
        await tasks.wait_for("t", "finished")
        await worker.stop()
    server.terminate()
