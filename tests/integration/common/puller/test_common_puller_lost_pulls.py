"""Pulls that are lost with the server, forgotten or refused: they are sent again, and no job is lost."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from integration.common.makers import KEY, REST, new_job
from integration.common.puller.jobs_in_hand import (
    SOON_S,
    num_pulls_waiting,
    task_id,
)
from nats.aio.msg import Msg

from sd_common import puller as puller_module
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import JOBS
from support.servers import NatsServer
from support.waiting import once

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_a_waiting_pull_survives_a_server_that_is_killed(
    puller: Puller, queue: JobQueue, nats_server: NatsServer, nats_client: NatsClient
) -> None:
    waiting = asyncio.ensure_future(puller.next(60))
    await once(lambda: num_pulls_waiting(nats_client), lambda num: num == 1)
    nats_server.kill()
    nats_server.start()
    job = new_job()
    async with asyncio.timeout(SOON_S):
        await queue.publish(job)
        assert task_id(await waiting) == job.task_id


async def test_an_open_pull_that_nobody_waits_on_survives_too(
    puller: Puller, queue: JobQueue, nats_server: NatsServer
) -> None:
    assert await puller.next(0.01) is None
    nats_server.kill()
    nats_server.start()
    job = new_job()
    async with asyncio.timeout(SOON_S):
        await queue.publish(job)
        assert task_id(await puller.next(SOON_S)) == job.task_id


async def test_a_pull_that_the_server_forgot_is_sent_again(
    nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the consumer's leader is lost: the connection stays, and nothing is heard any more, not even heartbeats.
    A subscription takes the consumer's place. The puller is asked for a moment at a time, as workers do."""
    monkeypatch.setattr(puller_module, "_LOST_AFTER_S", 0.1)
    requests: asyncio.Queue[Msg] = asyncio.Queue()
    await nats_client.subscribe("$JS.API.CONSUMER.MSG.NEXT.NONE.none", cb=requests.put)
    puller = Puller(nats_client, "NONE", "none")
    await puller.start()
    assert await puller.next(0.02) is None
    await requests.get()
    answering = asyncio.ensure_future(_answer_second(nats_client, requests))
    message = None
    async with asyncio.timeout(SOON_S):
        while message is None:
            message = await puller.next(0.02)
    assert message.data == b"job"
    await answering


async def _answer_second(client: NatsClient, requests: asyncio.Queue[Msg]) -> None:
    request = await requests.get()
    await client.publish(request.reply, b"job")


async def test_a_consumer_that_misses_is_asked_for_only_now_and_then(
    worker_client: NatsClient, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 0.1
    monkeypatch.setattr(puller_module, "_REFUSED_PAUSE_S", pause_s)
    puller = Puller(worker_client, JOBS, "missing")
    pulled_at: list[float] = []
    publish = worker_client.publish

    async def noted(*request: Any, **headers: Any) -> None:
        pulled_at.append(time.monotonic())
        await publish(*request, **headers)

    await puller.start()
    monkeypatch.setattr(worker_client, "publish", noted)
    async with asyncio.timeout(SOON_S):
        while len(pulled_at) < 4:
            assert await puller.next(pause_s) is None
    assert min(later - earlier for earlier, later in pairwise(pulled_at)) > 0.9 * pause_s
    await puller.close()


async def test_jobs_come_once_a_consumer_that_missed_is_there(
    worker_client: NatsClient, queue: JobQueue, nats_client: NatsClient
) -> None:
    await nats_client.jetstream().delete_consumer(JOBS, KEY)
    puller = Puller(worker_client, JOBS, KEY)
    await puller.start()
    waiting = asyncio.ensure_future(puller.next(SOON_S))
    job = new_job()
    await queue.publish(job)
    await queue.create_consumer(REST)
    assert task_id(await waiting) == job.task_id
    await puller.close()
