"""Who is served next where a user has queued many: job sources and the queue on a real server, without engines."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from nats.aio.msg import Msg

from sd_common import puller, subjects
from sd_common.blob_ids import new_blob_id
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.lanes import LANES, Lane, lane_of
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Txt2ImgParameters
from sd_worker import backlog_watch
from sd_worker.engine.reports import ModelsHere
from sd_worker.job_source import JobSource
from support.servers import NatsServer, nats_settings_of
from support.waiting import PATIENCE_S


class Users:
    """Submit tasks as a gateway does, with the lanes of what they have unfinished."""

    def __init__(self, client: NatsClient) -> None:
        self._queue = JobQueue(client)
        self._num_unfinished = Counter[str]()

    async def submit(self, user: str, num_tasks: int = 1, model: str = "home") -> None:
        for _ in range(num_tasks):
            number = self._num_unfinished[user]
            job = Job(
                task_id=f"{user}-{model}-{number}",
                user=user,
                session="session",
                blob_id=new_blob_id(),
                parameters=Txt2ImgParameters(prompt="corgi", model=model),
            )
            await self._queue.publish(job, lane_of(number))
            self._num_unfinished[user] += 1


async def _next(source: JobSource) -> Msg:
    async with asyncio.timeout(PATIENCE_S):
        return await source.next()


async def _users_of(source: JobSource, num_jobs: int) -> list[str]:
    """Whose the next jobs are, each ended at once."""
    users = []
    for _ in range(num_jobs):
        job = await _next(source)
        await job.ack_sync()
        users.append(Job.model_validate_json(job.data).user)
    return users


@pytest_asyncio.fixture
async def users(nats_client: NatsClient, provisioned: NatsSettings) -> Users:
    return Users(nats_client)


@pytest_asyncio.fixture
async def source(provisioned: NatsSettings, nats_server: NatsServer) -> AsyncIterator[JobSource]:
    """That of a worker which has the model in memory."""
    client = await connect(nats_settings_of(nats_server, "worker"), "worker")
    source = JobSource(client, JobQueue(client), lambda: ModelsHere(["home"]), 30.0, "worker")
    yield source
    await source.close()
    await client.shut()


async def test_a_first_task_is_among_the_next_three_though_another_user_has_queued_500(
    users: Users, source: JobSource
) -> None:
    await users.submit("flooder", 500)
    await users.submit("guest")
    assert "guest" in await _users_of(source, 3)


async def test_a_first_task_that_comes_while_a_flood_is_worked_off_needs_no_news_of_the_backlog(
    users: Users, source: JobSource
) -> None:
    """Jobs end within milliseconds here, and the backlog is told every 250."""
    await users.submit("flooder", 200)
    for number in range(10):
        await _users_of(source, 7)
        await users.submit(f"guest-{number}")
        assert f"guest-{number}" in await _users_of(source, 3)


async def test_the_rest_of_a_flood_is_taken_while_first_tasks_never_end(users: Users, source: JobSource) -> None:
    await users.submit("flooder", 50)
    for number in range(100):
        await users.submit(f"guest-{number}")
    assert Counter(await _users_of(source, 45))["flooder"] >= 45 // 3


async def test_every_job_of_every_lane_is_taken_once(users: Users, source: JobSource) -> None:
    for user in ("one", "two", "three"):
        await users.submit(user, 20)
    assert Counter(await _users_of(source, 60)) == {"one": 20, "two": 20, "three": 20}


async def test_a_job_that_was_handed_back_is_the_next_of_its_lane_whatever_else_waits(
    users: Users, source: JobSource, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker knows what waits each time. Else pulls are open for all lanes, and whichever is answered first counts.
    monkeypatch.setattr(backlog_watch, "INTERVAL_S", 0.0)
    monkeypatch.setattr(puller, "_HASTY_TIMEOUT_S", PATIENCE_S)
    await users.submit("guest")
    handed_back = await _next(source)
    await users.submit("flooder", 20)
    await nats_client.request(handed_back.reply, b"-NAK")  # the answer says that it is in the queue again
    assert await _users_of(source, 1) == ["guest"]


async def test_a_cancelled_worker_loses_no_job_of_any_lane(users: Users, source: JobSource) -> None:
    await users.submit("one", 40)
    await users.submit("two", 40)
    taken: list[str] = []

    async def take() -> None:
        while True:
            job = await source.next()
            taken.append(Job.model_validate_json(job.data).task_id)
            await job.ack()

    async with asyncio.timeout(PATIENCE_S):
        while len(taken) < 80:
            taking = asyncio.create_task(take())
            await asyncio.wait([taking], timeout=random.uniform(0, 0.02))
            taking.cancel()
            await asyncio.wait([taking])
    assert len(set(taken)) == 80


@pytest.mark.parametrize("lane", LANES)
async def test_an_idle_worker_has_a_job_of_any_lane_without_a_look_at_the_backlog(
    source: JobSource, nats_client: NatsClient, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_watch, "INTERVAL_S", 3600.0)  # there is the look at its start, and no other
    for _ in range(15):
        taking = asyncio.create_task(_next(source))
        await asyncio.sleep(0)
        await nats_client.jetstream().publish(subjects.jobs_of("home", lane), b"job")
        job = await taking
        assert job.subject == subjects.jobs_of("home", lane)
        await job.ack_sync()
