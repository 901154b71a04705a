"""The task log in a cluster of three nats-servers, where a read may be answered by a replica that is behind, and an
append stands until most of them have it."""

from __future__ import annotations

import asyncio

from integration.common.makers import aborted, finished, new_ref, pending, started

from sd_common.errors import SequenceConflict, TaskEnded
from sd_common.events import AbortedEvent, FinishedEvent
from sd_common.job_client import JobClient
from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient
from sd_common.parameters import Txt2ImgParameters
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog

#: Of a hundred reads, one to three find a replica behind.
_NUM_TASKS = 600
#: Of a hundred races, some twenty are refused with 10164.
_NUM_RACES = 50


async def test_a_task_is_found_as_soon_as_its_first_event_is_stored(cluster_clients: list[NatsClient]) -> None:
    logs = [TaskLog(client) for client in cluster_clients]
    for number in range(_NUM_TASKS):
        ref = new_ref()
        log = logs[number % len(logs)]
        sequence = await log.append(ref, pending(ref), NO_EVENT)
        assert await log.last(ref) is not None
        await log.append(ref, started(ref), sequence)
        assert await log.last_of_user(ref.user, ref.task_id) is not None


async def test_what_was_appended_or_heard_here_is_read_here(cluster_clients: list[NatsClient]) -> None:
    logs = [TaskLog(client) for client in cluster_clients]
    for number in range(_NUM_TASKS):
        ref = new_ref()
        writing, hearing = logs[number % len(logs)], logs[(number + 1) % len(logs)]
        sequence = await writing.append(ref, pending(ref), NO_EVENT)
        end = aborted(ref)
        sequence = await writing.append(ref, end, sequence)
        hearing.note(LoggedEvent(ref, sequence, end.model_dump_json().encode()))
        for log in (writing, hearing):
            for last in (await log.last(ref), await log.last_of_user(ref.user, ref.task_id)):
                assert last is not None
                assert last.event_type == "aborted"
            assert all(last.event_type == "aborted" for last in (await log.last_of_tasks([ref])).values())


async def test_of_appends_at_once_one_lands_and_the_others_are_told_which(cluster_clients: list[NatsClient]) -> None:
    """The leader refuses some with 10164: it does not know yet which one will be stored."""
    logs = [TaskLog(client) for client in cluster_clients]
    for _ in range(_NUM_RACES):
        ref = new_ref()
        first = await logs[0].append(ref, pending(ref), NO_EVENT)
        ends: list[FinishedEvent | AbortedEvent] = [finished(ref, worker="a"), finished(ref, worker="b"), aborted(ref)]
        results = await asyncio.gather(
            *(log.append(ref, end, first) for log, end in zip(logs, ends, strict=True)), return_exceptions=True
        )
        assert sum(isinstance(result, int) for result in results) == 1, results
        assert sum(isinstance(result, TaskEnded) for result in results) == 2, results


async def test_of_a_start_and_an_abort_at_once_one_lands(cluster_clients: list[NatsClient]) -> None:
    logs = [TaskLog(client) for client in cluster_clients]
    for _ in range(_NUM_RACES):
        ref = new_ref()
        first = await logs[0].append(ref, pending(ref), NO_EVENT)
        results = await asyncio.gather(
            logs[1].append(ref, started(ref), first), logs[2].append(ref, aborted(ref), first), return_exceptions=True
        )
        assert sum(isinstance(result, int) for result in results) == 1, results
        assert sum(isinstance(result, SequenceConflict | TaskEnded) for result in results) == 1, results


async def test_publishers_follow_tasks_at_other_nodes_to_their_end(cluster_clients: list[NatsClient]) -> None:
    clients = [JobClient(client, user="service") for client in cluster_clients]
    log = TaskLog(cluster_clients[0])

    async def follow(client: JobClient, ref: TaskRef) -> list[str]:
        return [event.event_type async for event in client.follow(ref)]

    for number in range(_NUM_TASKS // 4):
        submitting, other = clients[number % 3], clients[(number + 1) % 3]
        ref = await submitting.submit(Txt2ImgParameters(prompt="x", model=f"model-{number % 20}"))
        following = asyncio.ensure_future(follow(other, ref))
        last = await log.last(ref)
        assert last is not None
        sequence = await log.append(ref, started(ref), last.sequence)
        await log.append(ref, finished(ref), sequence)
        told = await asyncio.wait_for(following, 10)
        assert told == ["pending", "started", "finished"][-len(told) :]
