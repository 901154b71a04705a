"""Whatever somebody with the rights of a worker publishes as an event: users get JSON, and their other tasks."""

from __future__ import annotations

import asyncio

import pytest
from integration.common.makers import aborted, pending
from integration.gateway.conftest import StartGateway
from structlog.testing import capture_logs

from sd_common.abort import Aborter
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from support.client import Client

#: No JSON object with a type.
_NO_EVENTS = [
    b"",
    b"not json, but hunter2",
    b"\xff\xfe{\x00}\x00",
    b"{}",
    b"[]",
    b"null",
    b'{"event_type": 1}',
    b'{"event_type": "pending", "hunter2": NaN}',
    b'{"event_type": "pending", "hunter2": "\\ud800"}',
    b'{"event_type": "pending"} hunter2',
    b"[" * 10_000,
]
#: As an event of a later version is, for who reads this one.
_OTHER_EVENTS = [
    b'{"event_type": "%s", "hunter2": 1}' % kind for kind in (b"pending", b"started", b"finished", b"later")
]


@pytest.mark.parametrize("data", [*_NO_EVENTS, *_OTHER_EVENTS], ids=lambda data: data[:40].decode(errors="replace"))
async def test_an_event_that_cannot_be_read_breaks_no_list_and_no_websocket(
    data: bytes, start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    task_log, js = TaskLog(nats_client), nats_client.jetstream()
    _, url = await start_gateway()
    with capture_logs() as logs:
        async with Client(url) as client:
            await client.take_public_token()
            bad, good, last = (TaskRef(*client.user_and_session, task_id) for task_id in ("bad", "good", "last"))
            await task_log.append(good, pending(good), NO_EVENT)
            async with client.events("&progress=1") as live:
                await js.publish(bad.events, data)
                await nats_client.publish(bad.progress, data)
                await task_log.append(last, pending(last), NO_EVENT)
                heard = {(await live.next()).get("task_id")}
                while "last" not in heard:
                    heard.add((await live.next()).get("task_id"))
            async with client.events("&since=0") as resumed:
                while (await resumed.next()).get("task_id") != "last":
                    pass
            listed = await client.get("/tasks")
            assert listed.status == 200
            assert {task.get("task_id") for task in listed.json["tasks"]} >= {"good", "last"}
            told = await client.get("/task/bad")
            assert told.status == (404 if data in _NO_EVENTS else 200)
            assert told.json
            assert (await client.delete("/task/bad")).status == (404 if data in _NO_EVENTS else 204)
            await task_log.append(good, aborted(good), (await _sequence(task_log, good)))
            assert (await client.get("/task/good")).json["event_type"] == "aborted"
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical") or "hunter2" in str(entry)]


async def _sequence(task_log: TaskLog, ref: TaskRef) -> int:
    last = await task_log.last(ref)
    assert last is not None
    return last.sequence


@pytest.mark.parametrize("data", [b"not json", b'{"event_type": "later"}'])
async def test_a_task_whose_last_event_cannot_be_read_is_aborted(
    data: bytes, nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    ref, task_log = TaskRef("alice", "session", "bad"), TaskLog(nats_client)
    await nats_client.jetstream().publish(ref.events, data)
    await Aborter(nats_client, JobQueue(nats_client), task_log).abort(ref)
    last = await task_log.last(ref)
    assert last is not None
    assert last.event_type == "aborted"


@pytest.mark.parametrize("kind", ["finished", "aborted"])
async def test_a_request_that_waits_for_a_task_which_ends_in_a_later_version_is_told(
    kind: str, start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        await client.take_public_token()
        async with client.events() as events:
            waiting = asyncio.create_task(client.get("/txt2img", params={"prompt": "x", "model": "shapes"}))
            ref = TaskRef(*client.user_and_session, (await events.next())["task_id"])
            await nats_client.jetstream().publish(ref.events, b'{"event_type": "%s", "later": 1}' % kind.encode())
            answer = await waiting
    assert answer.status == 503
    assert answer.json["detail"].startswith(f"Task {ref.task_id} has ended with an event '{kind}' of a later version")
