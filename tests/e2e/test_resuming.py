"""A websocket client that is cut off time and again, at gateways that are killed, hears every stored event once."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from integration.common.makers import aborted, new_ref, pending

from sd_common.nats_client import NatsClient
from sd_common.task_log import NO_EVENT, TaskLog
from support import servers
from support.client import Client
from support.connections import connected
from support.deployment import Deployment
from support.servers import S3Server
from support.waiting import until

_GATEWAYS = ("gateway-1", "gateway-2")
_NUM_APPENDERS = 3
#: Listeners spend their time connecting: events wait for them from here on.
_MAX_BEHIND = 200


@pytest.fixture
def deployment(tmp_path: Path, s3_server: S3Server, backend: str) -> Iterator[Deployment]:
    """Auth and two gateways. Nobody works: the test appends the events."""
    with servers.nats_server(on=backend) as nats:
        deployment = Deployment(tmp_path, nats, s3_server.minio_settings("resuming"), tmp_path)
        try:
            deployment.provision()
            deployment.start_auth()
            for name in _GATEWAYS:
                deployment.start_gateway(name=name)
            yield deployment
        finally:
            deployment.stop()


@pytest_asyncio.fixture
async def nats(deployment: Deployment) -> AsyncIterator[NatsClient]:
    async with connected(servers.nats_settings_of(deployment.nats)) as client:
        yield client


class _Listener:
    """Connects, now here and now there, hears some events, and breaks the connection."""

    def __init__(self, deployment: Deployment, token: str, chance: random.Random) -> None:
        self.sequences: list[int] = []
        self.num_connections = 0
        self._deployment = deployment
        self._token = token
        self._chance = chance
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                url = await asyncio.to_thread(self._deployment.gateway_url, self._chance.choice(_GATEWAYS))
                since = self.sequences[-1] if self.sequences else 0
                try:
                    async with http.ws_connect(f"{url}/events?token={self._token}&since={since}") as events:
                        self.num_connections += 1
                        await self._hear_some(events)
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)  # that gateway is not there at the moment

    async def until(self, sequence: int) -> None:
        while not self.sequences or self.sequences[-1] < sequence:
            self._heard.clear()
            await self._heard.wait()

    async def _hear_some(self, events: aiohttp.ClientWebSocketResponse) -> None:
        for _ in range(self._chance.randrange(60)):
            message = await events.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                assert events.close_code in (1001, 1006, 1013), (events.close_code, message)
                return
            self.sequences.append(message.json()["sequence"])
            self._heard.set()
        events.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


async def test_every_stored_event_is_heard_once_and_in_order(deployment: Deployment, nats: NatsClient) -> None:
    """Meanwhile each gateway is killed and is stopped, and nats-server is killed; all come back."""
    seed = secrets.randbits(32)
    print("seed", seed)
    task_log = TaskLog(nats)
    async with Client(await asyncio.to_thread(deployment.gateway_url, _GATEWAYS[0])) as client:
        await client.until_ready()
        await client.take_public_token()
        user, session = client.user_and_session
        assert client.token is not None
        listeners = [_Listener(deployment, client.token, random.Random(seed + number)) for number in range(3)]
    stored: list[int] = []
    keep_on = True

    async def append() -> None:
        while keep_on:
            for of_session in (session, "another"):
                ref = new_ref(user, of_session)
                sequence = await task_log.append(ref, pending(ref), NO_EVENT)
                last = await task_log.append(ref, aborted(ref), sequence)
                if of_session == session:
                    stored.extend((sequence, last))
            await until(lambda: len(stored) - min(len(each.sequences) for each in listeners) <= _MAX_BEHIND)

    async with asyncio.timeout(150), asyncio.TaskGroup() as group:
        listening = [group.create_task(listener.listen()) for listener in listeners]
        appending = [group.create_task(append()) for _ in range(_NUM_APPENDERS)]
        for name in _GATEWAYS:
            for end in ("kill", "terminate"):
                await _all_hear_more(listeners)
                await asyncio.to_thread(getattr(deployment.services[name].process, end))
                await _all_hear_more(listeners)
                deployment.start_gateway(name=name)
        await asyncio.to_thread(deployment.nats.kill)
        deployment.nats.start()  # here: the server dies with the thread that started it
        await _all_hear_more(listeners)
        keep_on = False
        await asyncio.wait(appending)
        for listener in listeners:
            await listener.until(max(stored))
        for task in listening:
            task.cancel()
    print(f"{len(stored)} events, {[listener.num_connections for listener in listeners]} connections")
    for listener in listeners:
        assert listener.sequences == sorted(stored)


async def _all_hear_more(listeners: list[_Listener]) -> None:
    for listener in listeners:
        await listener.until((listener.sequences or [0])[-1] + 100)
