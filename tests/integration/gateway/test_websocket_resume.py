"""Websocket clients that go on where they were, at gateways in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from integration.common.makers import aborted, new_ref, pending
from integration.gateway.conftest import StartGateway

from sd_common.events import AbortedEvent
from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient
from sd_common.task_log import NO_EVENT, TaskLog
from sd_gateway.app import GatewayApp
from support.client import Client, Events


class _Session:
    """Events of tasks of one session, appended behind the gateways' backs."""

    def __init__(self, nats: NatsClient, user: str, session: str) -> None:
        self._task_log = TaskLog(nats)
        self._name = (user, session)

    async def append(self, count: int) -> list[int]:
        """The sequences of as many events: of each task two."""
        sequences: list[int] = []
        for _ in range(count // 2):
            ref = new_ref(*self._name)
            sequences.append(await self._task_log.append(ref, pending(ref), NO_EVENT))
            sequences.append(await self._task_log.append(ref, aborted(ref), sequences[-1]))
        return sequences

    async def append_large(self, count: int) -> list[int]:
        """Of events that are far more, together, than the kernel holds for a client that reads nothing."""
        sequences: list[int] = []
        for _ in range(count):
            ref = new_ref(*self._name)
            event = AbortedEvent(task_id=ref.task_id, reason="x" * 200_000)
            sequences.append(await self._task_log.append(ref, event, NO_EVENT))
        return sequences


@pytest_asyncio.fixture
async def gateway(start_gateway: StartGateway) -> tuple[GatewayApp, str]:
    """A gateway that holds few events for a client."""
    return await start_gateway(websocket_queue_events=20)


@pytest.fixture
def session(client: Client, nats_client: NatsClient) -> _Session:
    return _Session(nats_client, *client.user_and_session)


async def _sequences(events: Events, count: int) -> list[int]:
    return [(await events.next())["sequence"] for _ in range(count)]


async def test_a_client_gets_what_came_after_its_last_event_and_then_what_happens(
    client: Client, session: _Session
) -> None:
    before, missed = await session.append(10), await session.append(10)
    async with client.events(f"&since={before[-1]}") as events:
        assert await _sequences(events, 10) == missed
        assert await session.append(10) == await _sequences(events, 10)


async def test_since_0_begins_with_all_that_is_stored(client: Client, session: _Session) -> None:
    stored = await session.append(10)
    async with client.events("&since=0") as events:
        assert await _sequences(events, 10) == stored


async def test_without_since_a_client_hears_what_happens_from_now_on(client: Client, session: _Session) -> None:
    await session.append(10)
    async with client.events() as events:
        assert await session.append(10) == await _sequences(events, 10)


async def test_a_replay_has_the_events_of_the_session_alone(
    client: Client, session: _Session, nats_client: NatsClient
) -> None:
    user, own_session = client.user_and_session
    first = await session.append(2)
    for other in (("bob", own_session), (user, "another")):
        await _Session(nats_client, *other).append(4)
    last = await session.append(2)
    async with client.events("&since=0") as events:
        assert await _sequences(events, 4) == first + last


async def test_a_replay_that_takes_long_does_not_end_a_client(client: Client, session: _Session) -> None:
    """It is held up by a client that does not read, while more is told than the queue holds."""
    sequences = await session.append_large(60)
    async with client.events("&since=0") as events:
        first = await events.next()
        sequences += await session.append(100)
        assert [first["sequence"], *await _sequences(events, 159)] == sequences
        assert await session.append(10) == await _sequences(events, 10)


async def test_no_event_is_lost_or_doubled_where_a_replay_ends(client: Client, session: _Session) -> None:
    """More is appended all the time: some of it is both in the log that is read and told meanwhile."""
    stored = await session.append(600)
    appending = asyncio.ensure_future(session.append(300))
    async with client.events("&since=0") as events:
        received = await _sequences(events, 900)
    assert received == stored + await appending


async def test_what_a_lagging_replica_does_not_show_yet_is_sent_all_the_same(
    client: Client, gateway: tuple[GatewayApp, str], session: _Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, told = await session.append(10), await session.append(10)
    read = TaskLog.replay

    async def lagging(log: TaskLog, subject_filter: str, since: int, batch: int = 500) -> AsyncIterator[LoggedEvent]:
        async for event in read(log, subject_filter, since, batch):
            if event.sequence <= shown[-1]:
                yield event

    async with client.events() as events:  # the feed has told what was appended, once this hears the next
        monkeypatch.setattr(TaskLog, "replay", lagging)
        told += await session.append(2)
        await _sequences(events, 2)
    async with client.events("&since=0") as events:
        assert await _sequences(events, 22) == shown + told
        assert await session.append(2) == await _sequences(events, 2)


@pytest.mark.parametrize(
    ("since", "reason"),
    [
        ("-1", "since: Input should be greater than or equal to 0"),
        ("first", "since: Input should be a valid integer, unable to parse string as an integer"),
        ("12345", "since: No event has this sequence yet. since=0 gives all that is stored"),
        ("9" * 30, "since: No event has this sequence yet. since=0 gives all that is stored"),
    ],
)
async def test_a_since_that_cannot_be_is_refused_with_a_reason(client: Client, since: str, reason: str) -> None:
    async with client.events(f"&since={since}") as events:
        message = await events.socket.receive()
    assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 1008, reason)


async def test_events_that_have_aged_out_are_passed_over(
    client: Client, session: _Session, nats_client: NatsClient
) -> None:
    sequences = await session.append(10)
    await nats_client.jetstream().purge_stream("EVENTS", seq=sequences[6])
    async with client.events(f"&since={sequences[0]}") as events:
        assert await _sequences(events, 4) == sequences[6:]


async def test_a_client_goes_on_at_another_gateway(
    client: Client, session: _Session, start_gateway: StartGateway
) -> None:
    other = Client((await start_gateway())[1], client.token)
    sequences = await session.append(40)
    received = [0]
    async with other:
        for number in range(4):
            async with (client, other)[number % 2].events(f"&since={received[-1]}") as events:
                received += await _sequences(events, 10)
    assert received[1:] == sequences


async def test_a_client_that_is_too_slow_is_told_how_to_go_on(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    """Its queue of one is full as soon as two events are read from NATS together."""
    _, base_url = await start_gateway(websocket_queue_events=1)
    async with Client(base_url) as client:
        await client.take_public_token()
        user, session = client.user_and_session
        async with client.events() as events:
            refs = [new_ref(user, session) for _ in range(500)]
            task_log = TaskLog(nats_client)
            sequences = await asyncio.gather(*(task_log.append(ref, pending(ref), NO_EVENT) for ref in refs))
            received = [0]
            while (message := await events.socket.receive()).type is aiohttp.WSMsgType.TEXT:
                received.append(message.json()["sequence"])
            assert message.type is aiohttp.WSMsgType.CLOSE
            assert message.data == 1013
            assert message.extra == "Too slow: go on with since=<the last sequence received>"
        async with client.events(f"&since={received[-1]}") as events:
            received += await _sequences(events, 501 - len(received))
    assert received[1:] == sorted(sequences)
