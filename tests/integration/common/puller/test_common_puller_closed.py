"""Pullers that are closed: what they were given and did not take goes to somebody else."""

from __future__ import annotations

import asyncio
import random

import pytest
from integration.common.makers import KEY, new_job
from integration.common.puller.jobs_in_hand import (
    SOON_S,
    OpenPuller,
    num_given_out,
    num_pulls_waiting,
    task_id,
)

from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import DEFAULT_ACK_WAIT_S, JOBS
from support.connections import connected
from support.servers import NatsServer, nats_settings_of
from support.waiting import once

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_close_hands_back_what_was_not_taken(
    open_puller: OpenPuller, queue: JobQueue, nats_client: NatsClient
) -> None:
    puller = await open_puller()
    assert await puller.next(0.01) is None  # leaves a pull open
    job = new_job()
    await queue.publish(job)
    await once(lambda: num_given_out(nats_client), lambda num: num == 1)
    await puller.close()
    successor = await open_puller()
    message = await successor.next(SOON_S)
    assert task_id(message) == job.task_id
    assert message is not None
    assert message.metadata.num_delivered == 2
    await successor.close()


async def test_a_job_that_meets_the_close_goes_to_somebody_else(open_puller: OpenPuller, queue: JobQueue) -> None:
    """100 jobs are published just as the puller that waits for them closes."""
    chance = random.Random(2)
    successor = await open_puller()
    async with asyncio.timeout(DEFAULT_ACK_WAIT_S / 2):
        for _ in range(100):
            puller = await open_puller()
            assert await puller.next(0) is None
            job = new_job()
            publishing = asyncio.ensure_future(queue.publish(job))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            await puller.close()
            message = await successor.next(SOON_S)
            assert task_id(message) == job.task_id
            assert message is not None
            await message.ack_sync()
            await publishing
    await successor.close()


async def test_no_job_goes_to_a_puller_that_closes_as_soon_as_it_has_pulled(
    queue: JobQueue, nats_server: NatsServer
) -> None:
    """Its user has an account of its own, as a worker's has."""
    async with connected(nats_settings_of(nats_server, "worker")) as client, asyncio.timeout(DEFAULT_ACK_WAIT_S / 2):
        for _ in range(200):
            puller, successor = Puller(client, JOBS, KEY), Puller(client, JOBS, KEY)
            await puller.start()
            assert await puller.next(0) is None
            await puller.close()
            job = new_job()
            await queue.publish(job)
            await successor.start()
            message = await successor.next(SOON_S)
            assert task_id(message) == job.task_id
            assert message is not None
            await message.ack_sync()
            await successor.close()


async def test_a_closed_puller_leaves_no_pull_behind(open_puller: OpenPuller, nats_client: NatsClient) -> None:
    puller = await open_puller()
    assert await puller.next(0.01) is None
    await puller.close()
    await once(lambda: num_pulls_waiting(nats_client), lambda num: num == 0)


async def test_a_puller_closes_while_the_server_is_away(open_puller: OpenPuller, nats_server: NatsServer) -> None:
    puller = await open_puller()
    assert await puller.next(0.01) is None
    nats_server.kill()
    async with asyncio.timeout(SOON_S):
        await puller.close()
    nats_server.start()
