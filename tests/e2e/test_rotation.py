"""Credentials are changed by the steps of docs/operations.md while clients go on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support import servers
from support.client import PATIENCE_S, Client
from support.deployment import Deployment
from support.servers import S3Server

_REPLICAS = ("auth-1", "auth-2")
_SIGN_UP = {"ENABLE_SIGNUP": "1"}
_PASSWORD = "correct horse"


@pytest.fixture
def deployment(tmp_path: Path, s3_server: S3Server, backend: str) -> Iterator[Deployment]:
    """A gateway, and nobody behind it yet."""
    minio = s3_server.minio_settings("rotation")
    with servers.nats_server(on=backend) as nats:
        deployment = Deployment(tmp_path, nats, minio, tmp_path)
        try:
            deployment.provision()
            deployment.start_gateway()
            yield deployment
        finally:
            deployment.stop()


@asynccontextmanager
async def _client(deployment: Deployment) -> AsyncIterator[Client]:
    async with Client(deployment.gateway_url()) as client:
        async with asyncio.timeout(PATIENCE_S):
            while (await client.get("/readyz")).status != 200:  # noqa: ASYNC110 - another process becomes ready
                await asyncio.sleep(0.1)
        yield client


class _GoesOn:
    """Logs in and asks, over and over: with the token that it had first, and with the one that it just got."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.num_rounds = 0
        self.failures: list[object] = []

    async def run(self) -> None:
        old = self._client.token
        while True:
            answer = await self._client.post("/token", data={"username": "alice", "password": _PASSWORD})
            if answer.status != 200:
                self.failures.append(("log in", answer.status, answer.body))
                continue
            for token in (old, answer.json["access_token"]):
                answer = await self._client.get("/tasks", headers={"Authorization": f"Bearer {token}"})
                if answer.status != 200:
                    self.failures.append((answer.status, answer.body))
            self.num_rounds += 1

    async def rounds(self, num_rounds: int) -> None:
        """Return when so many more are done."""
        goal = self.num_rounds + num_rounds
        async with asyncio.timeout(PATIENCE_S):
            while self.num_rounds < goal:  # noqa: ASYNC110 - another task counts them
                await asyncio.sleep(0.01)


async def _restart(deployment: Deployment, going_on: _GoesOn, secret_key: str, previous: str) -> None:
    """All replicas of auth, one after the other."""
    env = {**_SIGN_UP, "SECRET_KEY": secret_key, "SECRET_KEY_PREVIOUS": previous}
    for name in _REPLICAS:
        auth = deployment.services[name].process
        assert await asyncio.to_thread(auth.terminate) == 0
        deployment.start_auth(env, name)  # in the main thread: it dies with the one that started it
        await asyncio.to_thread(deployment.services[name].wait_for_log, "auth_started")
        await going_on.rounds(3)


async def test_secret_key_changes_while_every_token_goes_on_counting(deployment: Deployment) -> None:
    """Until the former secret is taken off the list: then its tokens end, and no others."""
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    for name in _REPLICAS:
        deployment.start_auth({**_SIGN_UP, "SECRET_KEY": old}, name)
    async with _client(deployment) as client:
        await client.sign_up_and_log_in("alice", _PASSWORD)
        going_on = _GoesOn(client)
        running = asyncio.create_task(going_on.run())
        try:
            await _restart(deployment, going_on, old, previous=new)
            await _restart(deployment, going_on, new, previous=old)
        finally:
            running.cancel()
        assert going_on.failures == []
        newer = (await client.post("/token", data={"username": "alice", "password": _PASSWORD})).json["access_token"]
        for name in _REPLICAS:
            deployment.services[name].process.terminate()
            deployment.start_auth({**_SIGN_UP, "SECRET_KEY": new}, name)
        gateway = deployment.services["gateway"].process  # it would go on knowing the former key for up to 5 minutes
        assert gateway.terminate() == 0
        deployment.start_gateway()
    async with _client(deployment) as again:
        again.token = client.token
        assert (await again.get("/tasks")).status == 401
        again.token = newer
        assert (await again.get("/tasks")).status == 200
