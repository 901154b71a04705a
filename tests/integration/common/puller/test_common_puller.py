"""Jobs taken from a real nats-server, in order and one at a time."""

from __future__ import annotations

import asyncio

import pytest
from integration.common.makers import KEY, REST, new_job
from integration.common.puller.jobs_in_hand import (
    SOON_S,
    OpenPuller,
    num_given_out,
    num_pulls_waiting,
    task_id,
)

from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.puller import Puller, next_of
from sd_common.streams import JOBS, jobs_consumer_name
from sd_common.subjects import ModelLane
from support.jobs import num_jobs
from support.waiting import once

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_jobs_come_in_order(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    jobs = [new_job() for _ in range(20)]
    for job in jobs:
        await queue.publish(job)
    for job in jobs:
        message = await puller.next(SOON_S)
        assert task_id(message) == job.task_id
        assert message is not None
        assert message.metadata.num_delivered == 1
        await message.ack_sync()
    assert await num_jobs(nats_client) == 0


async def test_a_job_is_in_hand_as_soon_as_it_is_published(puller: Puller, queue: JobQueue) -> None:
    waiting = asyncio.ensure_future(puller.next(SOON_S))
    job = new_job()
    await queue.publish(job)
    assert task_id(await waiting) == job.task_id


async def test_no_job_is_none_and_the_pull_stays_open(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    for _ in range(3):
        assert await puller.next(0.02) is None
    await once(lambda: num_pulls_waiting(nats_client), lambda num: num == 1)
    job = new_job()
    await queue.publish(job)
    assert task_id(await puller.next(SOON_S)) == job.task_id


async def test_nothing_is_pulled_before_it_is_asked_for(open_puller: OpenPuller, nats_client: NatsClient) -> None:
    puller = await open_puller()
    assert await num_pulls_waiting(nats_client) == 0
    await puller.close()


async def test_only_one_job_is_taken_at_a_time(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    for _ in range(5):
        await queue.publish(new_job())
    await puller.next(SOON_S)
    assert await num_given_out(nats_client) == 1
    assert await num_pulls_waiting(nats_client) == 0


async def test_next_if_any_does_not_wait_for_a_job(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    for _ in range(3):
        assert await puller.next_if_any() is None
    assert await num_pulls_waiting(nats_client) == 0


async def test_next_if_any_takes_one_job_that_waits(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await queue.publish(job)
    assert [task_id(await puller.next_if_any()) for _ in jobs] == [job.task_id for job in jobs]
    assert await puller.next_if_any() is None
    assert await num_given_out(nats_client) == 3


async def test_of_several_pullers_the_one_that_has_a_job_ends_the_wait_and_the_others_hand_theirs_back(
    queue: JobQueue, worker_client: NatsClient
) -> None:
    heard, pullers = asyncio.Event(), []
    for lane in (ModelLane(KEY, "first"), REST):
        await queue.create_consumer(lane)
        pullers.append(Puller(worker_client, JOBS, jobs_consumer_name(lane), heard))
        await pullers[-1].start()
    assert await next_of(pullers, 0.05) is None
    later, first = new_job(), new_job()
    await queue.publish(later, "rest")
    assert task_id(await next_of(pullers, SOON_S)) == later.task_id
    await queue.publish(first, "first")
    assert task_id(await next_of(pullers, SOON_S)) == first.task_id
    left = new_job()
    await queue.publish(left, "rest")
    for puller in pullers:
        await puller.close()
    fresh = Puller(worker_client, JOBS, KEY)
    await fresh.start()
    assert task_id(await fresh.next(SOON_S)) == left.task_id
    await fresh.close()


async def test_pullers_share_the_jobs_of_a_model(
    queue: JobQueue, provisioned: NatsSettings, nats_client: NatsClient
) -> None:
    jobs = [new_job() for _ in range(200)]
    received: list[str] = []
    everything_received = asyncio.Event()

    async def work() -> None:
        client = await connect(provisioned, "worker")
        puller = Puller(client, JOBS, KEY)
        await puller.start()
        try:
            while True:
                message = await puller.next(SOON_S)
                assert message is not None
                received.append(task_id(message))
                await message.ack_sync()
                if len(received) >= len(jobs):
                    everything_received.set()
        finally:
            await puller.close()
            await client.shut()

    workers = [asyncio.ensure_future(work()) for _ in range(4)]
    try:
        await asyncio.gather(*map(queue.publish, jobs))
        await asyncio.wait_for(everything_received.wait(), SOON_S)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    assert sorted(received) == sorted(job.task_id for job in jobs)
    assert await num_jobs(nats_client) == 0
