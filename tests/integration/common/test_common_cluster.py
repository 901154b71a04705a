"""The task log in a cluster of three nats-servers, where a read may be answered by a replica that is behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from integration.common.makers import new_ref, pending, started

from sd_common.nats_client import NatsClient, connect
from sd_common.provision import provision_streams
from sd_common.settings import StreamSettings
from sd_common.task_log import NO_EVENT, TaskLog
from support.nats_cluster import NUM_NODES, NatsCluster, nats_cluster
from support.servers import nats_settings_of

#: Of a hundred reads, one to three find a replica behind.
_NUM_TASKS = 600


@pytest.fixture
def cluster() -> Iterator[NatsCluster]:
    with nats_cluster() as cluster:
        yield cluster


@pytest_asyncio.fixture
async def clients(cluster: NatsCluster) -> AsyncIterator[list[NatsClient]]:
    """One at each node."""
    async with AsyncExitStack() as stack:
        clients = []
        for node in cluster.nodes.values():
            clients.append(await connect(nats_settings_of(node), "test"))
            stack.push_async_callback(clients[-1].shut)
        settings = StreamSettings(_env_file=None, nats_replicas=NUM_NODES)
        await provision_streams(clients[0].jetstream(timeout=30), settings)
        yield clients


async def test_a_task_is_found_as_soon_as_its_first_event_is_stored(clients: list[NatsClient]) -> None:
    logs = [TaskLog(client) for client in clients]
    for number in range(_NUM_TASKS):
        ref = new_ref()
        log = logs[number % len(logs)]
        sequence = await log.append(ref, pending(ref), NO_EVENT)
        assert await log.last(ref) is not None
        await log.append(ref, started(ref), sequence)
        assert await log.last_of_user(ref.user, ref.task_id) is not None
