"""What happens to calls while the nats-server is away."""

from __future__ import annotations

import asyncio

import nats.errors
import pytest
import uvloop
from integration.common.makers import REST, aborted, new_job, new_ref, pending, started
from nats.aio.msg import Msg

from sd_common import nats_client as nats_client_module
from sd_common.errors import Unavailable
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.retries import retried_while_away
from sd_common.task_log import NO_EVENT, TaskLog
from support.jobs import num_jobs
from support.servers import NatsServer, restart
from support.waiting import once

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_submissions_during_a_restart_are_queued_once(
    nats_client: NatsClient, provisioned: NatsSettings, nats_server: NatsServer
) -> None:
    queue, task_log = JobQueue(nats_client), TaskLog(nats_client)
    jobs = [new_job() for _ in range(100)]
    half_submitted = asyncio.Event()
    num_submitted = 0

    async def submit_all() -> list[int]:
        nonlocal num_submitted
        sequences = []
        for job in jobs:
            sequences.append(await queue.publish(job))
            await task_log.append(job.ref, pending(job.ref, sequences[-1]), NO_EVENT)
            num_submitted += 1
            if num_submitted == len(jobs) // 2:
                half_submitted.set()
        return sequences

    submitting = asyncio.ensure_future(submit_all())
    await half_submitted.wait()
    await restart(nats_server)
    sequences = await submitting
    assert len(set(sequences)) == len(jobs)
    assert await num_jobs(nats_client) == len(jobs)
    events = [event async for event in task_log.replay("events.>", 0)]
    assert [event.ref for event in events] == [job.ref for job in jobs]


async def test_calls_made_while_the_server_is_away_are_carried_out_when_it_is_back(
    nats_client: NatsClient, provisioned: NatsSettings, nats_server: NatsServer
) -> None:
    queue, task_log = JobQueue(nats_client), TaskLog(nats_client)
    ref, job = new_ref(), new_job()
    sequence = await task_log.append(ref, pending(ref), NO_EVENT)
    nats_server.kill()
    appending = asyncio.ensure_future(task_log.append(ref, aborted(ref), sequence))
    reading = asyncio.ensure_future(task_log.last(ref))
    others = asyncio.gather(
        queue.publish(job),
        queue.backlog("worker"),
        _sequences(task_log),
        queue.create_consumer(REST),
        queue.delete(1000),
    )
    nats_server.start()
    await others
    ended = await appending
    last = await reading
    assert ended == sequence + 1
    assert last is not None
    assert last.sequence in (sequence, ended)
    assert await num_jobs(nats_client) == 1
    assert await _sequences(task_log) == [sequence, ended]


async def _sequences(task_log: TaskLog) -> list[int]:
    return [event.sequence async for event in task_log.replay("events.>", 0)]


async def test_a_server_that_stays_away_is_told(nats_client: NatsClient, nats_server: NatsServer) -> None:
    nats_server.kill()

    async def ask() -> None:
        await nats_client.request("anything", timeout=0.05)

    with pytest.raises(Unavailable, match="The message broker does not answer at the moment"):
        await retried_while_away(ask, retry_for_s=0.3)
    nats_server.start()


async def test_a_closed_connection_is_told_at_once(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    client = await connect(provisioned, "closed")
    await client.shut()
    ref = new_ref()
    with pytest.raises(Unavailable):
        await TaskLog(client).append(ref, pending(ref), NO_EVENT)
    with pytest.raises(Unavailable):
        await JobQueue(client).publish(new_job())
    with pytest.raises(Unavailable):
        await JobQueue(client).backlog("worker")


async def test_what_is_no_loss_of_the_server_is_not_retried() -> None:
    num_calls = 0

    async def fail() -> None:
        nonlocal num_calls
        num_calls += 1
        raise ValueError("not retried")

    with pytest.raises(ValueError, match="not retried"):
        await retried_while_away(fail)
    assert num_calls == 1


async def test_a_client_waits_for_a_server_that_is_not_there_yet(
    nats_settings: NatsSettings, nats_server: NatsServer
) -> None:
    """Services may start in any order."""
    nats_server.kill()
    connecting = asyncio.ensure_future(connect(nats_settings, "early"))
    nats_server.start()
    client = await asyncio.wait_for(connecting, 10)
    assert client.is_connected
    await client.shut()


async def test_listeners_are_told_of_reconnects_until_they_do_not_want_to(
    nats_client: NatsClient, nats_server: NatsServer
) -> None:
    told: list[str] = []
    reconnected = asyncio.Event()

    async def broken() -> None:
        told.append("broken")
        raise RuntimeError("one part that fails to recover")

    async def unwanted() -> None:
        told.append("unwanted")

    async def last() -> None:
        told.append("last")
        reconnected.set()

    nats_client.on_reconnect(broken)
    forget = nats_client.on_reconnect(unwanted)
    nats_client.on_reconnect(last)
    forget()
    forget()  # twice is no error
    await restart(nats_server)
    await asyncio.wait_for(reconnected.wait(), 10)
    assert told == ["broken", "last"]


async def test_a_client_shuts_while_the_server_is_away(nats_settings: NatsSettings, nats_server: NatsServer) -> None:
    client = await connect(nats_settings, "leaving")
    nats_server.kill()
    await asyncio.wait_for(client.shut(), 10)
    assert client.is_closed
    nats_server.start()


async def test_a_cancellation_that_comes_with_the_answer_is_not_swallowed(nats_client: NatsClient) -> None:
    """`asyncio.wait_for` of Python 3.11 would return the answer: who is told to stop would go on."""

    async def answer(message: Msg) -> None:
        await message.respond(b"answer")

    await nats_client.subscribe("question", cb=answer)
    await nats_client.request("question")  # subscribes to the answers
    asking = asyncio.ensure_future(nats_client.request("question"))
    await asyncio.sleep(0)  # it sends the question
    [answered] = nats_client._resp_map.values()
    answered.add_done_callback(lambda _: asking.cancel())
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await asyncio.wait_for(nats_client.request("question"), 10)).data == b"answer"


async def test_a_request_still_times_out(nats_client: NatsClient) -> None:
    async def keep_silent(message: Msg) -> None:
        pass

    await nats_client.subscribe("question", cb=keep_silent)
    with pytest.raises(nats.errors.TimeoutError):
        await nats_client.request("question", timeout=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await nats_client.request("question")


async def _until_stored(client: NatsClient, num_events: int) -> None:
    await once(TaskLog(client).last_sequence, lambda last: last == num_events)


async def test_what_was_published_before_a_client_shuts_arrives(
    nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    for number in range(20):
        client = await connect(provisioned, "leaving")
        ref = new_ref()
        await client.publish(ref.events, started(ref).model_dump_json().encode())
        await client.shut()
        # The server has it when `shut` returns, and stores it in a thread of the stream's own.
        await _until_stored(nats_client, number + 1)


async def test_a_call_on_a_connection_that_has_just_gone_is_carried_out(
    nats_client: NatsClient, provisioned: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop, which services run on, refuses to write to it."""
    monkeypatch.setattr(nats_client_module, "_RECONNECT_PAUSE_S", 0.02)
    refs = [new_ref() for _ in range(20)]

    async def append_all() -> None:
        client = await connect(provisioned, "cut-off")
        for ref in refs:
            assert client._transport is not None
            client._transport.close()  # type: ignore[no-untyped-call]
            for _ in range(3):  # the first finds the flusher alive, which ends with it
                await client.publish("anything")
                await asyncio.sleep(0)
            await TaskLog(client).append(ref, pending(ref), NO_EVENT)
        await client.shut()

    await asyncio.to_thread(uvloop.run, append_all())
    assert [event.ref async for event in TaskLog(nats_client).replay("events.>", 0)] == refs
