"""Submissions, starts, ends and aborts of many tasks race on a real nats-server.

Four workers take the jobs of 200 tasks, some of which are aborted at a random moment; a worker may hand a job back, or
lose it, so that another starts it again. Whatever happens, every task gets exactly one terminal event, as its last, and
no job is left.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict

import pytest
from integration.common.makers import KEY, REST, finished, new_job, pending, started
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.abort import Aborter
from sd_common.errors import SequenceConflict, TaskEnded
from sd_common.events import TERMINAL_TYPES, AbortedEvent, FinishedEvent, PendingEvent, StartedEvent
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.puller import Puller
from sd_common.queue_task import queue_task
from sd_common.streams import JOBS
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from support.jobs import num_jobs

_NUM_TASKS = 200
_NUM_WORKERS = 4


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class _Worker:
    """Takes jobs and tells what becomes of them."""

    def __init__(self, client: NatsClient, name: str, chance: random.Random) -> None:
        self._client = client
        self._name = name
        self._chance = chance
        self._task_log = TaskLog(client)
        self._cancelled: set[str] = set()

    async def work(self) -> None:
        await self._client.subscribe(subjects.CANCELS, cb=self._on_cancel)
        puller = Puller(self._client, JOBS, KEY)
        await puller.start()
        try:
            while True:
                message = await puller.next(1)
                if message is not None:
                    await self._run(message)
        finally:
            await puller.close()

    async def _on_cancel(self, message: Msg) -> None:
        self._cancelled.add(subjects.task_id_of_cancel(message.subject))

    async def _run(self, message: Msg) -> None:
        ref = Job.model_validate_json(message.data).ref
        try:
            sequence = await self._start(ref, message.metadata.sequence.stream)
            await _turns(self._chance.randrange(20))
            fate = self._chance.random()
            if fate < 0.1:  # as at SIGTERM, or when it is killed: somebody else runs it again
                await message.nak()
                return
            if ref.task_id not in self._cancelled:
                await self._task_log.append(ref, finished(ref, self._name), sequence)
        except (TaskEnded, SequenceConflict):
            pass  # aborted meanwhile
        await message.ack_sync()

    async def _start(self, ref: TaskRef, job_sequence: int) -> int:
        while True:
            last = await self._task_log.last(ref)
            try:
                if last is None:
                    sequence = await self._task_log.append(ref, pending(ref, job_sequence), NO_EVENT)
                    return await self._task_log.append(ref, started(ref, 1, self._name), sequence)
                if last.is_terminal:
                    raise TaskEnded(ref.task_id, last.event.event_type)
                attempt = last.event.attempt + 1 if isinstance(last.event, StartedEvent) else 1
                return await self._task_log.append(ref, started(ref, attempt, self._name), last.sequence)
            except SequenceConflict:
                continue


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_task_ends_exactly_once(seed: int, nats_client: NatsClient, provisioned: NatsSettings) -> None:
    chance = random.Random(seed)
    queue, task_log = JobQueue(nats_client), TaskLog(nats_client)
    await queue.create_consumer(REST)
    jobs = [new_job() for _ in range(_NUM_TASKS)]
    all_ended = asyncio.Event()
    ended: Counter[str] = Counter()

    async def on_feed(message: Msg) -> None:
        _, ref = subjects.parse_task_subject(message.subject)
        if b'"finished"' in message.data or b'"aborted"' in message.data:
            ended[ref.task_id] += 1
            if len(ended) == _NUM_TASKS:
                all_ended.set()

    await nats_client.subscribe(subjects.FEED, cb=on_feed)
    clients = [await connect(provisioned, f"worker-{number}") for number in range(_NUM_WORKERS)]
    workers = [
        asyncio.ensure_future(_Worker(client, f"worker-{number}", random.Random(seed + number)).work())
        for number, client in enumerate(clients)
    ]
    aborter = Aborter(nats_client, queue, task_log)

    async def live(job: Job) -> None:
        await _turns(chance.randrange(50))
        await queue_task(queue, task_log, job)
        await _turns(chance.randrange(400))
        if chance.random() < 0.6:
            await asyncio.gather(*(aborter.abort(job.ref) for _ in range(chance.randrange(1, 4))))

    try:
        async with asyncio.timeout(120):
            await asyncio.gather(*map(live, jobs))
            await all_ended.wait()
            while await num_jobs(nats_client):
                pass  # a worker is about to acknowledge
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
        for client in clients:
            await client.shut()

    lives: defaultdict[str, list[PendingEvent | StartedEvent | FinishedEvent | AbortedEvent]] = defaultdict(list)
    async for logged in task_log.replay(subjects.EVENTS, 0):
        lives[logged.ref.task_id].append(logged.event)
    assert set(lives) == {job.task_id for job in jobs}
    for events in lives.values():
        kinds = [event.event_type for event in events]
        assert [event.event_type in TERMINAL_TYPES for event in events] == [False] * (len(events) - 1) + [True], kinds
        assert kinds[0] == "pending"
        attempts = [event.attempt for event in events if isinstance(event, StartedEvent)]
        assert attempts == list(range(1, len(attempts) + 1))
    assert set(ended.values()) == {1}
    final = Counter(events[-1].event_type for events in lives.values())
    assert final["finished"] > 10, "nothing raced"
    assert final["aborted"] > 10, "nothing raced"
