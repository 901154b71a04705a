"""The limit of unfinished tasks per user, and what it counts, on a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
import pytest_asyncio
from integration.common.makers import aborted, new_job, new_ref, pending, started
from integration.gateway.conftest import StartGateway

from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from sd_gateway import unfinished_tasks
from sd_gateway.errors import TooManyUnfinishedTasks
from sd_gateway.event_feed import EventFeed
from sd_gateway.unfinished_tasks import UnfinishedTasks
from support.client import Client
from support.jobs import STRAY_SUBJECTS, num_jobs
from support.servers import NatsServer, restart
from support.waiting import PATIENCE_S, once, until

_TASK = {"prompt": "x", "model": "shapes"}


async def test_a_submission_beyond_the_limit_is_refused_until_a_task_has_ended(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(max_unfinished_tasks_per_user=2)
    async with Client(url) as client:
        first, _ = [await client.submit(**_TASK) for _ in range(2)]
        for refused in (await client.post("/task", json=_TASK), await client.get("/txt2img", params=_TASK)):
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) > 0
            assert "You have 2 unfinished tasks, the most that a user may have" in refused.json["detail"]
        await client.delete(f"/task/{first}")
        async with asyncio.timeout(PATIENCE_S):
            while (await client.post("/task", json=_TASK)).status != 200:
                pass
        assert (await client.post("/task", json=_TASK)).status == 429


async def test_parallel_submissions_do_not_overshoot_the_limit(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    _, url = await start_gateway(max_unfinished_tasks_per_user=10)
    async with Client(url) as client:
        answers = await asyncio.gather(*(client.post("/task", json=_TASK) for _ in range(40)))
    assert sorted(answer.status for answer in answers) == [200] * 10 + [429] * 30
    assert await num_jobs(nats_client) == 10


async def test_a_submission_that_fails_does_not_count(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(max_unfinished_tasks_per_user=1)
    async with Client(url) as client:
        wrong = {**_TASK, "params_type": "img2img", "initial_image": f"{url}/blob/abcdefghijklmnopqrstuvwx"}
        for _ in range(3):
            assert (await client.post("/task", json=wrong)).status == 422
        await client.submit(**_TASK)


async def test_without_a_limit_all_are_taken(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(max_unfinished_tasks_per_user=0)
    async with Client(url) as client:
        for _ in range(5):
            await client.submit(**_TASK)


async def test_each_session_of_the_public_user_has_a_limit_of_its_own(start_gateway: StartGateway) -> None:
    _, url = await start_gateway(max_unfinished_tasks_per_user=1)
    async with Client(url) as visitor, Client(url) as another:
        await visitor.take_public_token()
        await another.take_public_token()
        await visitor.submit(**_TASK)
        assert (await visitor.post("/task", json=_TASK)).status == 429
        await another.submit(**_TASK)
        assert (await another.post("/task", json=_TASK)).status == 429


async def test_tasks_count_at_a_gateway_that_has_just_started_and_at_others(start_gateway: StartGateway) -> None:
    first, url = await start_gateway(max_unfinished_tasks_per_user=2)
    async with Client(url) as client:
        await client.sign_up_and_log_in("alice")
        await client.submit(**_TASK)
    await first.stop()
    _, url = await start_gateway(max_unfinished_tasks_per_user=2)
    _, other_url = await start_gateway(max_unfinished_tasks_per_user=2)
    async with Client(url, client.token) as client, Client(other_url, client.token) as other:
        await client.submit(**_TASK)
        async with asyncio.timeout(PATIENCE_S):
            while (answer := await other.post("/task", json=_TASK)).status == 200:
                await other.delete(f"/task/{answer.json}")
        assert answer.status == 429


@pytest_asyncio.fixture
async def gateway_client(nats_settings: NatsSettings) -> AsyncIterator[NatsClient]:
    client = await connect(nats_settings, "gateway")
    yield client
    await client.shut()


@pytest_asyncio.fixture
async def unfinished(provisioned: NatsSettings, gateway_client: NatsClient) -> AsyncIterator[UnfinishedTasks]:
    feed = EventFeed(gateway_client, TaskLog(gateway_client))
    tasks = UnfinishedTasks(gateway_client, JobQueue(gateway_client), feed, max_per_holder=1)
    await feed.start()
    await tasks.start()
    yield tasks
    tasks.stop()
    feed.stop()


async def _submit(nats: NatsClient, ref: TaskRef) -> int:
    sequence = await JobQueue(nats).publish(new_job(ref))
    await TaskLog(nats).append(ref, pending(ref, sequence), NO_EVENT)
    return sequence


async def test_each_user_has_a_count_of_their_own(unfinished: UnfinishedTasks, nats_client: NatsClient) -> None:
    await _submit(nats_client, new_ref("alice"))
    await until(lambda: unfinished.count("alice") == 1)
    assert unfinished.count("bob") == 0
    with unfinished.admitted(new_ref("bob")):
        assert unfinished.count("bob") == 1
    with pytest.raises(TooManyUnfinishedTasks), unfinished.admitted(new_ref("alice")):
        pass


async def test_tasks_of_several_sessions_with_the_same_id_count_each(
    unfinished: UnfinishedTasks, nats_client: NatsClient
) -> None:
    """As those of a publisher may be called."""
    here, there = TaskRef("alice", "here", "invoice-17"), TaskRef("alice", "there", "invoice-17")
    sequences = [await _submit(nats_client, ref) for ref in (here, there)]
    await until(lambda: unfinished.count("alice") == 2)
    await TaskLog(nats_client).append(here, aborted(here), 1)
    await until(lambda: unfinished.count("alice") == 1)
    assert len(set(sequences)) == 2
    assert await unfinished.find("alice", "invoice-17") == there
    assert await unfinished.find("bob", "invoice-17") is None


async def test_a_task_that_counts_already_is_admitted_again(unfinished: UnfinishedTasks) -> None:
    ref = new_ref()
    with unfinished.admitted(ref), unfinished.admitted(ref):
        assert unfinished.count(ref.user) == 1
    with unfinished.admitted(ref):
        assert unfinished.count(ref.user) == 1


async def test_a_task_that_ended_while_it_was_submitted_does_not_count(
    unfinished: UnfinishedTasks, nats_client: NatsClient
) -> None:
    other, ref = new_ref("bob"), new_ref("alice")
    with unfinished.admitted(ref):
        await TaskLog(nats_client).append(ref, aborted(ref), NO_EVENT)
        await _submit(nats_client, other)
        await until(lambda: unfinished.count("bob") == 1)  # told after what ended
    assert unfinished.count("alice") == 0


async def test_a_job_that_vanished_without_an_event_counts_until_the_next_reading(
    unfinished: UnfinishedTasks, nats_client: NatsClient, nats_server: NatsServer
) -> None:
    """Here the next reading is the one after a reconnect."""
    sequence = await _submit(nats_client, new_ref())
    await until(lambda: unfinished.count("alice") == 1)
    await JobQueue(nats_client).delete(sequence)
    await restart(nats_server)
    await until(lambda: unfinished.count("alice") == 0)


async def test_the_queue_is_read_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch, gateway_client: NatsClient, provisioned: NatsSettings
) -> None:
    monkeypatch.setattr(unfinished_tasks, "REREAD_S", 0.05)
    feed = EventFeed(gateway_client, TaskLog(gateway_client))  # not started: it tells nothing
    queue = JobQueue(gateway_client)
    tasks = UnfinishedTasks(gateway_client, queue, feed, max_per_holder=0)
    await tasks.start()
    sequences = [await queue.publish(new_job(new_ref("alice"))) for _ in range(1200)]
    await until(lambda: tasks.count("alice") == len(sequences))
    for sequence in sequences[:700]:
        await queue.delete(sequence)
    await until(lambda: tasks.count("alice") == 500)
    tasks.stop()


async def test_a_reading_that_fails_for_whatever_reason_is_not_the_last(
    unfinished: UnfinishedTasks, nats_client: NatsClient, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = await _submit(nats_client, new_ref())
    await until(lambda: unfinished.count("alice") == 1)
    await JobQueue(nats_client).delete(sequence)
    num_failures = 0

    def fail(_queue: JobQueue) -> NoReturn:
        nonlocal num_failures
        num_failures += 1
        raise RuntimeError

    with monkeypatch.context() as failing:
        failing.setattr(JobQueue, "heads", fail)
        await restart(nats_server)
        await until(lambda: num_failures == 1)
    await restart(nats_server)
    await until(lambda: unfinished.count("alice") == 0)


async def test_what_is_of_no_lane_counts_for_nobody_and_is_taken_off_the_queue(
    monkeypatch: pytest.MonkeyPatch, gateway_client: NatsClient, nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    monkeypatch.setattr(unfinished_tasks, "REREAD_S", 0.05)
    queue, js = JobQueue(gateway_client), nats_client.jetstream()
    for subject in STRAY_SUBJECTS:
        await js.publish(subject, new_job(new_ref("alice")).model_dump_json().encode())
    kept = await queue.publish(new_job(new_ref("bob")))
    feed = EventFeed(gateway_client, TaskLog(gateway_client))  # not started: it tells nothing
    tasks = UnfinishedTasks(gateway_client, queue, feed, max_per_holder=0)
    await tasks.start()
    assert (tasks.count("alice"), tasks.count("bob")) == (0, 1)
    await once(lambda: num_jobs(nats_client), lambda num: num <= 1)
    assert (await js.get_msg("JOBS", seq=kept)).data
    tasks.stop()


async def test_a_task_that_has_ended_does_not_count_though_its_job_is_still_there(
    unfinished: UnfinishedTasks, nats_client: NatsClient, nats_server: NatsServer
) -> None:
    """A worker acknowledges the job after the event."""
    ref, queue, task_log = new_ref("alice"), JobQueue(nats_client), TaskLog(nats_client)
    await queue.publish(new_job(ref))
    sequence = await task_log.append(ref, started(ref), NO_EVENT)
    await until(lambda: unfinished.count("alice") == 1)
    await task_log.append(ref, aborted(ref), sequence)
    await until(lambda: unfinished.count("alice") == 0)
    await queue.publish(new_job(new_ref("bob")))  # without an event: only reading the queue tells it
    await restart(nats_server)
    await until(lambda: unfinished.count("bob") == 1)
    assert unfinished.count("alice") == 0
