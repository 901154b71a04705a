"""The task log in a cluster of three nats-servers, where a read may be answered by a replica that is behind."""

from __future__ import annotations

from integration.common.makers import new_ref, pending, started

from sd_common.nats_client import NatsClient
from sd_common.task_log import NO_EVENT, TaskLog

#: Of a hundred reads, one to three find a replica behind.
_NUM_TASKS = 600


async def test_a_task_is_found_as_soon_as_its_first_event_is_stored(cluster_clients: list[NatsClient]) -> None:
    logs = [TaskLog(client) for client in cluster_clients]
    for number in range(_NUM_TASKS):
        ref = new_ref()
        log = logs[number % len(logs)]
        sequence = await log.append(ref, pending(ref), NO_EVENT)
        assert await log.last(ref) is not None
        await log.append(ref, started(ref), sequence)
        assert await log.last_of_user(ref.user, ref.task_id) is not None
