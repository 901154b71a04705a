"""What a worker announces, as a gateway hears it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from integration.worker.conftest import OWN_DEFAULTS, StartWorker, Tasks
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.announcements import WorkerAnnouncement
from sd_common.nats_client import NatsClient
from sd_embedded.nats_server import NatsServer
from support.waiting import PATIENCE_S


class Announcements:
    """Hears every announcement."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._heard: asyncio.Queue[tuple[str, WorkerAnnouncement]] = asyncio.Queue()

    async def start(self) -> None:
        await self._client.subscribe(subjects.WORKERS, cb=self._on_announcement)
        await self._client.flush()

    async def next(self) -> WorkerAnnouncement:
        async with asyncio.timeout(PATIENCE_S):
            subject, announcement = await self._heard.get()
        assert subject == subjects.announcements_of(announcement.worker)
        return announcement

    async def until_resident(self, *names: str) -> WorkerAnnouncement:
        while resident_of(announcement := await self.next()) != set(names):
            pass
        return announcement

    async def _on_announcement(self, message: Msg) -> None:
        self._heard.put_nowait((message.subject, WorkerAnnouncement.model_validate_json(message.data)))


def resident_of(announcement: WorkerAnnouncement) -> set[str]:
    return {model.name for model in announcement.models if model.is_resident}


@pytest_asyncio.fixture
async def announcements(nats_client: NatsClient) -> AsyncIterator[Announcements]:
    announcements = Announcements(nats_client)
    await announcements.start()
    yield announcements


async def test_a_worker_announces_the_models_below_its_directory_at_its_start(
    start_worker: StartWorker, announcements: Announcements
) -> None:
    await start_worker("gpu.1")
    announcement = await announcements.next()
    models = {model.name: model for model in announcement.models}
    assert announcement.worker == "gpu.1"
    assert set(models) == {"flagging", "other", "own-defaults", "tiny"}
    assert models["own-defaults"].default_parameters.model_dump() == OWN_DEFAULTS
    assert models["own-defaults"].kinds == ["txt2img", "img2img", "inpaint"]
    assert resident_of(announcement) == set()


async def test_a_worker_announces_that_it_has_loaded_a_model_and_dropped_another(
    start_worker: StartWorker, tasks: Tasks, announcements: Announcements
) -> None:
    await start_worker(model_memory_budget=1)
    await tasks.publish("first", model="tiny")
    announcement = await announcements.until_resident("tiny")
    [tiny] = [model for model in announcement.models if model.name == "tiny"]
    assert (tiny.default_parameters.width, tiny.default_parameters.height) == (64, 64)
    await tasks.publish("second", model="other")
    await announcements.until_resident("other")


async def test_a_worker_announces_itself_when_the_roll_is_called_and_when_it_leaves(
    start_worker: StartWorker, announcements: Announcements, nats_client: NatsClient
) -> None:
    worker = await start_worker()
    first = await announcements.next()
    await nats_client.publish(subjects.ROLL_CALL)
    assert await announcements.next() == first
    await worker.stop()
    while not (goodbye := await announcements.next()).is_leaving:
        pass
    assert goodbye.models == []


async def test_a_worker_announces_itself_after_it_was_cut_off(
    start_worker: StartWorker, announcements: Announcements, nats_server: NatsServer
) -> None:
    await start_worker()
    first = await announcements.next()
    await asyncio.to_thread(nats_server.kill)
    await asyncio.to_thread(nats_server.start)
    assert await announcements.next() == first


async def test_where_the_safety_filter_is_required_models_without_a_checker_are_not_announced(
    start_worker: StartWorker, announcements: Announcements
) -> None:
    await start_worker(safety_filter="required")
    assert [model.name for model in (await announcements.next()).models] == ["flagging"]
