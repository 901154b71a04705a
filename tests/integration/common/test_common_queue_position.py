"""Positions of jobs, from what a real nats-server tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from integration.common.makers import KEY, REST, new_job

from sd_common import queue_position
from sd_common.job_queue import JobQueue
from sd_common.lanes import LANES, Lane
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.puller import Puller
from sd_common.queue_position import QueuePositions
from sd_common.streams import JOBS
from sd_common.subjects import ModelLane
from support.servers import NatsServer
from support.waiting import PATIENCE_S


@pytest.fixture
def positions(nats_client: NatsClient, provisioned: NatsSettings, monkeypatch: pytest.MonkeyPatch) -> QueuePositions:
    """They wait for a server that is busy."""
    monkeypatch.setattr(queue_position, "_TIMEOUT_S", PATIENCE_S)
    return QueuePositions(nats_client)


@pytest_asyncio.fixture
async def puller(nats_client: NatsClient, queue: JobQueue) -> AsyncIterator[Puller]:
    await queue.create_consumer(REST)
    puller = Puller(nats_client, JOBS, KEY)
    await puller.start()
    yield puller
    await puller.close()


async def _publish(queue: JobQueue, *lanes: Lane) -> list[int]:
    return [await queue.publish(new_job(), lane) for lane in lanes]


async def test_a_message_of_no_lane_has_no_position(positions: QueuePositions, nats_client: NatsClient) -> None:
    stray = await nats_client.jetstream().publish("jobs.evil!", b"{}")
    assert await positions.of(stray.seq) is None


@pytest.mark.parametrize("has_consumers", [True, False])
async def test_jobs_of_all_lanes_have_the_positions_in_which_they_are_taken(
    positions: QueuePositions, queue: JobQueue, has_consumers: bool
) -> None:
    if has_consumers:
        for lane in LANES:
            await queue.create_consumer(ModelLane(KEY, lane))
    sequences = await _publish(queue, "rest", "rest", "next", "first", "rest", "first", "first")
    await queue.publish(new_job(model="another"))
    assert [await positions.of(sequence) for sequence in sequences] == [5, 6, 3, 1, 7, 2, 4]


async def test_jobs_that_run_or_were_aborted_are_in_nobodys_way(
    positions: QueuePositions, queue: JobQueue, puller: Puller
) -> None:
    running, aborted, kept, last = await _publish(queue, "rest", "rest", "rest", "rest")
    assert await puller.next(PATIENCE_S) is not None
    assert [await positions.of(sequence) for sequence in (aborted, kept, last)] == [1, 2, 3]
    await queue.delete(aborted)
    assert [await positions.of(sequence) for sequence in (kept, last)] == [1, 2]
    assert await positions.of(aborted) is None
    assert await positions.of(running) == 1  # should it be handed back


async def test_a_job_that_was_handed_back_is_the_next(
    positions: QueuePositions, queue: JobQueue, puller: Puller
) -> None:
    handed_back, other = await _publish(queue, "rest", "rest")
    job = await puller.next(PATIENCE_S)
    assert job is not None
    await job.nak()
    assert [await positions.of(sequence) for sequence in (handed_back, other)] == [1, 1]


async def test_where_nats_is_away_no_position_is_told_and_soon(
    nats_client: NatsClient, provisioned: NatsSettings, queue: JobQueue, nats_server: NatsServer
) -> None:
    [sequence] = await _publish(queue, "first")
    await asyncio.to_thread(nats_server.kill)
    async with asyncio.timeout(10):
        assert await QueuePositions(nats_client).of(sequence) is None
    nats_server.start()
