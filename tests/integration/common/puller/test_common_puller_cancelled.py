"""Waits for jobs that are cancelled or interrupted: no job is lost, and no cancellation."""

from __future__ import annotations

import asyncio
import random

import pytest
from integration.common.makers import KEY, new_job
from integration.common.puller.jobs_in_hand import (
    SOON_S,
    OpenPuller,
    task_id,
)
from nats.aio.msg import Msg

from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import DEFAULT_ACK_WAIT_S, JOBS

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_cancelled_waiting_loses_no_job(puller: Puller, queue: JobQueue) -> None:
    """`next` is cancelled again and again while 300 jobs arrive; every job is delivered once, and comes out once."""
    jobs = [new_job() for _ in range(300)]
    chance = random.Random(1)
    received: list[str] = []
    num_cancelled = 0

    async def publish() -> None:
        for job in jobs:
            await queue.publish(job)

    async def take_all() -> None:
        nonlocal num_cancelled
        while len(received) < len(jobs):
            waiting = asyncio.ensure_future(puller.next(SOON_S))
            # A random number of turns of the event loop, so that cancellations meet arrivals.
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                message = await waiting
            except asyncio.CancelledError:
                num_cancelled += 1
                continue
            assert message is not None
            assert message.metadata.num_delivered == 1
            received.append(task_id(message))
            await message.ack()

    async with asyncio.timeout(DEFAULT_ACK_WAIT_S / 2):
        await asyncio.gather(publish(), take_all())
    assert sorted(received) == sorted(job.task_id for job in jobs)
    assert num_cancelled > 50, "hardly anything was cancelled"


async def test_a_cancellation_that_comes_with_a_job_is_not_swallowed(
    queue: JobQueue, worker_client: NatsClient
) -> None:
    """`asyncio.wait_for` of Python 3.11 would return as if nobody had cancelled, and a worker would never stop."""
    waiting: asyncio.Future[Msg | None]

    class CancelledByItsJob(Puller):
        async def _on_reply(self, message: Msg) -> None:
            await super()._on_reply(message)
            waiting.cancel()

    puller = CancelledByItsJob(worker_client, JOBS, KEY)
    await puller.start()
    waiting = asyncio.ensure_future(puller.next(SOON_S))
    job = new_job()
    await queue.publish(job)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task_id(await puller.next_if_any()) == job.task_id
    await puller.close()


async def test_next_if_any_loses_no_job_to_cancellation(puller: Puller, queue: JobQueue) -> None:
    chance = random.Random(3)
    for _ in range(50):
        job = new_job()
        await queue.publish(job)
        asking = asyncio.ensure_future(puller.next_if_any())
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
        asking.cancel()
        try:
            message = await asking
        except asyncio.CancelledError:
            message = await puller.next(SOON_S)
        assert task_id(message) == job.task_id
        assert message is not None
        await message.ack_sync()


async def test_an_interrupted_wait_ends_and_its_pull_stays_open(open_puller: OpenPuller, queue: JobQueue) -> None:
    puller = await open_puller()
    waiting = asyncio.ensure_future(puller.next(SOON_S))
    await asyncio.sleep(0)
    puller.interrupt()
    async with asyncio.timeout(SOON_S / 2):
        assert await waiting is None
    assert puller.may_bring_a_job
    job = new_job()
    await queue.publish(job)
    assert task_id(await puller.next(SOON_S)) == job.task_id
    assert not puller.may_bring_a_job
    await puller.close()
