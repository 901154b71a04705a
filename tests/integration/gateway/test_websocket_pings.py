"""Pings of websockets, by which a client that has gone without a word is found."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import WSMsgType
from integration.gateway.conftest import StartGateway

from sd_common.events import AbortedEvent
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from support.client import Client
from support.waiting import PATIENCE_S

_INTERVAL = "sd_gateway.client_socket.PING_INTERVAL_S"


async def test_a_websocket_client_that_answers_pings_stays(
    start_gateway: StartGateway, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_INTERVAL, 3.0)  # half of it is for the answer
    _, url = await start_gateway()
    async with Client(url) as client, aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE_S):
        await client.take_public_token()
        async with http.ws_connect(f"{url}/events?token={client.token}", autoping=False) as socket:
            for _ in range(2):  # the second tells that the first was answered
                ping = await socket.receive()
                assert ping.type is WSMsgType.PING
                await socket.pong(ping.data)
            event = AbortedEvent(task_id="t", reason="no")
            await TaskLog(nats_client).append(TaskRef(*client.user_and_session, "t"), event, NO_EVENT)
            while (message := await socket.receive()).type is WSMsgType.PING:
                await socket.pong(message.data)
            assert message.json()["task_id"] == "t"


async def test_a_websocket_client_that_answers_no_ping_is_closed(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_INTERVAL, 0.4)
    _, url = await start_gateway()
    async with Client(url) as client, aiohttp.ClientSession() as http, asyncio.timeout(PATIENCE_S):
        await client.take_public_token()
        async with http.ws_connect(f"{url}/events?token={client.token}", autoping=False) as socket:
            assert (await socket.receive()).type is WSMsgType.PING
            assert (await socket.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
