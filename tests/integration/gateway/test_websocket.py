"""Websocket clients that do not read, on a gateway in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket as sockets
import time

import pytest
import pytest_asyncio
from aiohttp import WSCloseCode
from integration.gateway.conftest import StartGateway

from sd_common.events import AbortedEvent, ProgressEvent
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from sd_gateway.app import GatewayApp
from sd_gateway.authn import Authenticator, VerifiedToken
from sd_gateway.websocket import Websockets
from support.client import Client
from support.metrics import scrape, scrape_until
from support.waiting import PATIENCE_S

#: Far more than the kernel holds for a client that reads nothing.
_EVENT_CHARS = 200_000
_NUM_EVENTS = 60
#: More than the kernel holds at both ends, for one that reads a little at least.
_NUM_PROGRESS = 100
_DROPPED = "sd_websocket_progress_dropped_total"


@pytest_asyncio.fixture
async def gateway(start_gateway: StartGateway) -> tuple[GatewayApp, str]:
    """A gateway with little patience, and where it listens."""
    return await start_gateway(websocket_send_timeout_s=0.5, health_port=0)


async def _stalled(client: Client) -> sockets.socket:
    """A websocket of the client's session that has shaken hands and then reads nothing."""
    host, _, port = client.base_url.removeprefix("http://").partition(":")
    socket = sockets.socket()
    socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    socket.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(socket, (host, int(port)))
    head = f"GET /events?token={client.token} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    await loop.sock_sendall(socket, (head + key).encode())
    assert (await loop.sock_recv(socket, 12)) == b"HTTP/1.1 101"
    return socket


async def _flood(nats: NatsClient, user: str, session: str) -> list[str]:
    task_log = TaskLog(nats)
    task_ids = [f"t{number}" for number in range(_NUM_EVENTS)]
    for task_id in task_ids:
        event = AbortedEvent(task_id=task_id, reason="x" * _EVENT_CHARS)
        await task_log.append(TaskRef(user, session, task_id), event, NO_EVENT)
    return task_ids


async def test_a_stalled_websocket_delays_nobody_and_is_cut_off(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    # More than this process may stand still for: the client that reads would be cut off too.
    gateway, url = await start_gateway(websocket_send_timeout_s=5, health_port=0)
    async with Client(url) as client:
        await client.take_public_token()
        stalled = await _stalled(client)
        async with client.events() as events:

            async def hear() -> list[str]:
                return [(await events.next())["task_id"] for _ in range(_NUM_EVENTS)]

            stored, heard = await asyncio.gather(_flood(nats_client, *client.user_and_session), hear())
            assert heard == stored
        with contextlib.closing(stalled):
            await asyncio.to_thread(_wait_until_reset, stalled)
        page = await scrape(f"http://127.0.0.1:{gateway.health_port}/metrics")
        assert page.value("sd_websocket_closes_total", reason="too_slow") == 1


async def test_a_stalled_websocket_does_not_hold_up_a_stop(
    gateway: tuple[GatewayApp, str], nats_client: NatsClient
) -> None:
    async with Client(gateway[1]) as client:
        await client.take_public_token()
        with contextlib.closing(await _stalled(client)):
            await _flood(nats_client, *client.user_and_session)
            started = time.monotonic()
            await gateway[0].stop()
            assert time.monotonic() - started < 15


async def test_a_websocket_whose_handshake_overlaps_a_stop_is_told_so(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify, close_all = Authenticator.verify, Websockets.close_all
    is_verifying, are_closed, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def waiting(authenticator: Authenticator, token: str) -> VerifiedToken:
        is_verifying.set()
        await goes_on.wait()
        return await verify(authenticator, token)

    async def telling(websockets: Websockets) -> None:
        await close_all(websockets)
        are_closed.set()

    monkeypatch.setattr(Authenticator, "verify", waiting)
    monkeypatch.setattr(Websockets, "close_all", telling)
    gateway, url = await start_gateway()
    async with Client(url) as client, asyncio.timeout(PATIENCE_S):
        await client.take_public_token()

        async def close_code() -> int | None:
            async with client.events() as events:
                await events.socket.receive()
                return events.socket.close_code

        closing = asyncio.create_task(close_code())
        await is_verifying.wait()
        stopping = asyncio.create_task(gateway.stop())
        await are_closed.wait()
        goes_on.set()
        assert await closing == WSCloseCode.GOING_AWAY
        await stopping


def _wait_until_reset(socket: sockets.socket) -> None:
    """Return when the other end has cut the connection off. Nothing is read."""
    poll = select.poll()
    poll.register(socket, 0)  # tells of errors and hang-ups alone
    assert poll.poll(1000 * PATIENCE_S), "the connection is still there"


async def test_progress_that_a_slow_client_was_not_sent_is_counted(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    """The client reads on later: what was stored is there, and all progress was sent or counted."""
    gateway, url = await start_gateway(websocket_queue_events=8, websocket_send_timeout_s=60, health_port=0)
    metrics = f"http://127.0.0.1:{gateway.health_port}/metrics"
    async with Client(url) as client:
        await client.take_public_token()
        ref = TaskRef(*client.user_and_session, "t")
        async with client.events("&progress=1") as events:
            for _ in range(_NUM_PROGRESS):
                progress = {"event_type": "progress", "task_id": "t", "padding": "x" * _EVENT_CHARS}
                await nats_client.publish(ref.progress, json.dumps(progress).encode())
            await nats_client.flush()
            await scrape_until(metrics, lambda page: page.value(_DROPPED) > 0)
            await TaskLog(nats_client).append(ref, AbortedEvent(task_id="t", reason="x"), NO_EVENT)
            *sent, last = await events.of_task("t")
        assert last["event_type"] == "aborted"
        assert 0 < len(sent) < _NUM_PROGRESS
        await scrape_until(metrics, lambda page: page.value(_DROPPED) == _NUM_PROGRESS - len(sent))


@pytest.mark.parametrize("resumes", [False, True])
async def test_no_progress_follows_the_end_of_a_task(
    gateway: tuple[GatewayApp, str], nats_client: NatsClient, resumes: bool
) -> None:
    """As of a task that was cancelled, whose worker is in the middle of a step; told live, and from the log."""

    async def publish_progress(ref: TaskRef) -> None:
        progress = ProgressEvent(task_id=ref.task_id, stage="denoising", step=1, steps=9)
        await nats_client.publish(ref.progress, progress.model_dump_json().encode())

    async with Client(gateway[1]) as client:
        await client.take_public_token()
        ended, running = (TaskRef(*client.user_and_session, name) for name in ("ended", "running"))
        if resumes:
            await TaskLog(nats_client).append(ended, AbortedEvent(task_id="ended", reason="x"), NO_EVENT)
        async with client.events("&progress=1&since=0" if resumes else "&progress=1") as events:
            if not resumes:
                await TaskLog(nats_client).append(ended, AbortedEvent(task_id="ended", reason="x"), NO_EVENT)
            assert (await events.next())["event_type"] == "aborted"
            told: list[str] = []
            while "running" not in told:  # progress that comes while the log is still read may be missed
                await publish_progress(ended)
                await publish_progress(running)
                with contextlib.suppress(TimeoutError):
                    told.append((await asyncio.wait_for(events.next(), 1))["task_id"])
            assert "ended" not in told


async def test_what_is_stored_after_the_handshake_is_heard(
    gateway: tuple[GatewayApp, str], nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to learn whether the token was revoked, such as after a reconnect."""
    verify = Authenticator.verify

    async def slowly(authenticator: Authenticator, token: str) -> VerifiedToken:
        await asyncio.sleep(0.3)
        return await verify(authenticator, token)

    async with Client(gateway[1]) as client:
        await client.take_public_token()
        monkeypatch.setattr(Authenticator, "verify", slowly)
        async with client.events() as events:
            event = AbortedEvent(task_id="t", reason="x")
            await TaskLog(nats_client).append(TaskRef(*client.user_and_session, "t"), event, NO_EVENT)
            assert (await events.next())["task_id"] == "t"
