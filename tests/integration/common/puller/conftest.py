"""Pullers of a worker, over a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from integration.common.makers import KEY, REST
from integration.common.puller.jobs_in_hand import OpenPuller

from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.puller import Puller
from sd_common.streams import JOBS
from support.connections import connected


@pytest.fixture
async def queue(queue: JobQueue) -> JobQueue:
    """With a consumer."""
    await queue.create_consumer(REST)
    return queue


@pytest.fixture
async def worker_client(provisioned: NatsSettings) -> AsyncIterator[NatsClient]:
    async with connected(provisioned, "worker") as client:
        yield client


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
