"""Jobs taken from a real nats-server: none is lost, whoever is cancelled, restarted or closed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from integration.common.makers import KEY, REST, new_job, until
from nats.aio.msg import Msg

from sd_common import puller as puller_module
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.puller import Puller, next_of
from sd_common.streams import DEFAULT_ACK_WAIT_S, JOBS, jobs_consumer_name
from sd_common.subjects import ModelLane
from support.jobs import num_jobs
from support.servers import NatsServer

pytestmark = pytest.mark.usefixtures("quick_retries")

#: Seconds in which a job is in hand. Far below DEFAULT_ACK_WAIT_S, after which a lost one would come again.
_SOON_S = 10.0
assert _SOON_S < DEFAULT_ACK_WAIT_S

OpenPuller = Callable[[], Awaitable[Puller]]


@pytest.fixture
async def queue(nats_client: NatsClient, provisioned: NatsSettings) -> JobQueue:
    queue = JobQueue(nats_client)
    await queue.create_consumer(REST)
    return queue


@pytest.fixture
async def worker_client(provisioned: NatsSettings) -> AsyncIterator[NatsClient]:
    client = await connect(provisioned, "worker")
    yield client
    await client.shut()


@pytest.fixture
async def open_puller(queue: JobQueue, worker_client: NatsClient) -> OpenPuller:
    async def open_one() -> Puller:
        puller = Puller(worker_client, JOBS, KEY)
        await puller.start()
        return puller

    return open_one


@pytest.fixture
async def puller(open_puller: OpenPuller) -> AsyncIterator[Puller]:
    puller = await open_puller()
    yield puller
    await puller.close()


def _task_id(message: Msg | None) -> str:
    assert message is not None
    return Job.model_validate_json(message.data).task_id


async def _num_given_out(client: NatsClient) -> int:
    return (await client.jetstream().consumer_info(JOBS, KEY)).num_ack_pending or 0


async def _num_pulls_waiting(client: NatsClient) -> int:
    return (await client.jetstream().consumer_info(JOBS, KEY)).num_waiting or 0


async def test_jobs_come_in_order(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    jobs = [new_job() for _ in range(20)]
    for job in jobs:
        await queue.publish(job)
    for job in jobs:
        message = await puller.next(_SOON_S)
        assert _task_id(message) == job.task_id
        assert message is not None
        assert message.metadata.num_delivered == 1
        await message.ack_sync()
    assert await num_jobs(nats_client) == 0


async def test_a_job_is_in_hand_as_soon_as_it_is_published(puller: Puller, queue: JobQueue) -> None:
    waiting = asyncio.ensure_future(puller.next(_SOON_S))
    job = new_job()
    await queue.publish(job)
    assert _task_id(await waiting) == job.task_id


async def test_no_job_is_none_and_the_pull_stays_open(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    for _ in range(3):
        assert await puller.next(0.02) is None
    assert await _num_pulls_waiting(nats_client) == 1
    job = new_job()
    await queue.publish(job)
    assert _task_id(await puller.next(_SOON_S)) == job.task_id


async def test_nothing_is_pulled_before_it_is_asked_for(open_puller: OpenPuller, nats_client: NatsClient) -> None:
    puller = await open_puller()
    assert await _num_pulls_waiting(nats_client) == 0
    await puller.close()


async def test_only_one_job_is_taken_at_a_time(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    for _ in range(5):
        await queue.publish(new_job())
    await puller.next(_SOON_S)
    assert await _num_given_out(nats_client) == 1
    assert await _num_pulls_waiting(nats_client) == 0


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
            waiting = asyncio.ensure_future(puller.next(_SOON_S))
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
            received.append(_task_id(message))
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
    waiting = asyncio.ensure_future(puller.next(_SOON_S))
    job = new_job()
    await queue.publish(job)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert _task_id(await puller.next_if_any()) == job.task_id
    await puller.close()


# Closing


async def test_close_hands_back_what_was_not_taken(
    open_puller: OpenPuller, queue: JobQueue, nats_client: NatsClient
) -> None:
    puller = await open_puller()
    assert await puller.next(0.01) is None  # leaves a pull open
    job = new_job()
    await queue.publish(job)
    await until(lambda: _is(_num_given_out(nats_client), 1))
    await puller.close()
    successor = await open_puller()
    message = await successor.next(_SOON_S)
    assert _task_id(message) == job.task_id
    assert message is not None
    assert message.metadata.num_delivered == 2
    await successor.close()


async def _is(asked: Awaitable[int], expected: int) -> bool:
    return await asked == expected


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
            message = await successor.next(_SOON_S)
            assert _task_id(message) == job.task_id
            assert message is not None
            await message.ack_sync()
            await publishing
    await successor.close()


async def test_a_closed_puller_leaves_no_pull_behind(open_puller: OpenPuller, nats_client: NatsClient) -> None:
    puller = await open_puller()
    assert await puller.next(0.01) is None
    await puller.close()
    await until(lambda: _is(_num_pulls_waiting(nats_client), 0))


async def test_a_puller_closes_while_the_server_is_away(open_puller: OpenPuller, nats_server: NatsServer) -> None:
    puller = await open_puller()
    assert await puller.next(0.01) is None
    nats_server.kill()
    async with asyncio.timeout(_SOON_S):
        await puller.close()
    nats_server.start()


# What waits now


async def test_next_if_any_does_not_wait_for_a_job(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    for _ in range(3):
        assert await puller.next_if_any() is None
    assert await _num_pulls_waiting(nats_client) == 0


async def test_next_if_any_takes_one_job_that_waits(puller: Puller, queue: JobQueue, nats_client: NatsClient) -> None:
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await queue.publish(job)
    assert [_task_id(await puller.next_if_any()) for _ in jobs] == [job.task_id for job in jobs]
    assert await puller.next_if_any() is None
    assert await _num_given_out(nats_client) == 3


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
            message = await puller.next(_SOON_S)
        assert _task_id(message) == job.task_id
        assert message is not None
        await message.ack_sync()


# Loss of requests


async def test_a_waiting_pull_survives_a_server_that_is_killed(
    puller: Puller, queue: JobQueue, nats_server: NatsServer, nats_client: NatsClient
) -> None:
    waiting = asyncio.ensure_future(puller.next(60))
    await until(lambda: _is(_num_pulls_waiting(nats_client), 1))
    nats_server.kill()
    nats_server.start()
    job = new_job()
    async with asyncio.timeout(_SOON_S):
        await queue.publish(job)
        assert _task_id(await waiting) == job.task_id


async def test_an_open_pull_that_nobody_waits_on_survives_too(
    puller: Puller, queue: JobQueue, nats_server: NatsServer
) -> None:
    assert await puller.next(0.01) is None
    nats_server.kill()
    nats_server.start()
    job = new_job()
    async with asyncio.timeout(_SOON_S):
        await queue.publish(job)
        assert _task_id(await puller.next(_SOON_S)) == job.task_id


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
    async with asyncio.timeout(_SOON_S):
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
    monkeypatch.setattr(puller_module, "_REFUSED_PAUSE_S", 0.1)
    puller = Puller(worker_client, JOBS, "missing")
    num_pulls = 0
    pull = puller._pull

    async def counted(request: bytes) -> None:
        nonlocal num_pulls
        num_pulls += 1
        await pull(request)

    monkeypatch.setattr(puller, "_pull", counted)
    await puller.start()
    assert await puller.next(0.45) is None
    assert 1 < num_pulls <= 6
    await puller.close()


async def test_jobs_come_once_a_consumer_that_missed_is_there(
    worker_client: NatsClient, queue: JobQueue, nats_client: NatsClient
) -> None:
    await nats_client.jetstream().delete_consumer(JOBS, KEY)
    puller = Puller(worker_client, JOBS, KEY)
    await puller.start()
    waiting = asyncio.ensure_future(puller.next(_SOON_S))
    job = new_job()
    await queue.publish(job)
    await queue.create_consumer(REST)
    assert _task_id(await waiting) == job.task_id
    await puller.close()


async def test_an_interrupted_wait_ends_and_its_pull_stays_open(open_puller: OpenPuller, queue: JobQueue) -> None:
    puller = await open_puller()
    waiting = asyncio.ensure_future(puller.next(_SOON_S))
    await asyncio.sleep(0)
    puller.interrupt()
    async with asyncio.timeout(_SOON_S / 2):
        assert await waiting is None
    assert puller.may_bring_a_job
    job = new_job()
    await queue.publish(job)
    assert _task_id(await puller.next(_SOON_S)) == job.task_id
    assert not puller.may_bring_a_job
    await puller.close()


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
    assert _task_id(await next_of(pullers, _SOON_S)) == later.task_id
    await queue.publish(first, "first")
    assert _task_id(await next_of(pullers, _SOON_S)) == first.task_id
    left = new_job()
    await queue.publish(left, "rest")
    for puller in pullers:
        await puller.close()
    fresh = Puller(worker_client, JOBS, KEY)
    await fresh.start()
    assert _task_id(await fresh.next(_SOON_S)) == left.task_id
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
                message = await puller.next(_SOON_S)
                assert message is not None
                received.append(_task_id(message))
                await message.ack_sync()
                if len(received) >= len(jobs):
                    everything_received.set()
        finally:
            await puller.close()
            await client.shut()

    workers = [asyncio.ensure_future(work()) for _ in range(4)]
    try:
        await asyncio.gather(*map(queue.publish, jobs))
        await asyncio.wait_for(everything_received.wait(), _SOON_S)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    assert sorted(received) == sorted(job.task_id for job in jobs)
    assert await num_jobs(nats_client) == 0
