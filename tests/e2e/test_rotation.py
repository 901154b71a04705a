"""Credentials are changed by the steps of docs/operations.md while clients go on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from sd_embedded.s3_server import S3Server as EmbeddedS3
from support import servers
from support.client import Client
from support.deployment import Deployment, path_of_picture
from support.servers import NatsServerWithUsers
from support.waiting import PATIENCE_S, once, until

_REPLICAS = ("auth-1", "auth-2")
_SIGN_UP = {"ENABLE_SIGNUP": "1"}
_PASSWORD = "correct horse"
_SHORT = {"prompt": "x", "model": "shapes", "steps": 2, "width": 64, "height": 64}
#: A second or two on one core.
_LONG = {"prompt": "x", "model": "shapes", "steps": 100, "width": 128, "height": 128, "scheduler": "ddim"}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def nats() -> Iterator[NatsServerWithUsers]:
    with servers.nats_server_with_users() as nats:
        yield nats


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[EmbeddedS3]:
    """One of the test's own."""
    with servers.own_s3_server(tmp_path / "s3") as s3:
        yield s3


@pytest.fixture
def deployment(tmp_path: Path, model_dir: Path, nats: NatsServerWithUsers, s3: EmbeddedS3) -> Iterator[Deployment]:
    """A gateway, and nobody behind it yet."""
    deployment = Deployment(tmp_path, nats, s3.minio_settings("rotation"), model_dir)
    try:
        deployment.provision()
        deployment.start_gateway()
        yield deployment
    finally:
        deployment.stop()


@pytest_asyncio.fixture
async def session(deployment: Deployment) -> AsyncIterator[Client]:
    """Has a public token."""
    deployment.start_auth()
    async with _client(deployment) as client:
        await client.take_public_token()
        yield client


@asynccontextmanager
async def _client(deployment: Deployment) -> AsyncIterator[Client]:
    async with Client(deployment.gateway_url()) as client:
        await client.until_ready()
        yield client


async def _run_for_a_while(client: Client) -> str:
    """A task that has begun: one that waits for its model is handed back by a worker that is told to stop."""
    async with client.events("&progress=1") as events:
        running = await client.submit(**_LONG)
        while (await events.until(running, "progress"))["stage"] != "denoising":
            pass
    return running


class _GoesOn:
    """Logs in and asks, over and over: with the token that it had first, and with the one that it just got."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.num_rounds = 0
        self.num_put_off = 0
        self.failures: list[object] = []

    async def run(self) -> None:
        old = self._client.token
        while True:
            answer = await self._client.post("/token", data={"username": "alice", "password": _PASSWORD})
            if answer.status == 503 and "Retry-After" in answer.headers:
                self.num_put_off += 1
                continue
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
        await until(lambda: self.num_rounds >= goal)


async def _restart(deployment: Deployment, going_on: _GoesOn, secret_key: str, previous: str) -> None:
    """All replicas of auth, one after the other."""
    env = {**_SIGN_UP, "SECRET_KEY": secret_key, "SECRET_KEY_PREVIOUS": previous}
    for name in _REPLICAS:
        auth = deployment.services[name].process
        assert await asyncio.to_thread(auth.terminate, PATIENCE_S) == 0
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
        assert going_on.num_put_off <= 1, "a replica may stand still for once; restarts put nobody off"
        newer = (await client.post("/token", data={"username": "alice", "password": _PASSWORD})).json["access_token"]
        for name in _REPLICAS:
            deployment.services[name].process.terminate()
            deployment.start_auth({**_SIGN_UP, "SECRET_KEY": new}, name)
        gateway = deployment.services["gateway"].process  # it would go on knowing the former key for up to 5 minutes
        assert gateway.terminate(PATIENCE_S) == 0
        deployment.start_gateway()
    async with _client(deployment) as again:
        again.token = client.token
        assert (await again.get("/tasks")).status == 401
        again.token = newer
        assert (await again.get("/tasks")).status == 200


async def test_passwords_of_nats_change_and_no_task_is_lost(
    deployment: Deployment, nats: NatsServerWithUsers, session: Client
) -> None:
    """Workers finish what they run before, and take what waits after."""
    deployment.start_worker("one")
    running = await _run_for_a_while(session)
    waiting = await session.submit(**_SHORT)
    assert await asyncio.to_thread(deployment.services["one"].process.terminate, PATIENCE_S) == 0
    assert (await session.last_event(running))["event_type"] == "finished"
    nats.change_passwords()
    await once(lambda: session.get("/readyz"), lambda answer: answer.status == 503)  # it finds that it is refused
    for name in ("auth", "gateway"):
        assert deployment.services[name].process.terminate(PATIENCE_S) == 0
    deployment.start_auth()
    deployment.start_gateway()
    deployment.start_worker("one")
    async with _client(deployment) as again:
        again.token = session.token
        for task_id in (running, waiting):
            assert (await again.ended(task_id))["event_type"] == "finished"


async def test_keys_of_the_s3_server_change_and_no_picture_is_lost(
    deployment: Deployment, tmp_path: Path, s3: EmbeddedS3, session: Client
) -> None:
    """Workers store what they run before; what was stored is there after."""
    deployment.start_worker("one")
    running = await _run_for_a_while(session)
    assert await asyncio.to_thread(deployment.services["one"].process.terminate, PATIENCE_S) == 0
    finished = await session.last_event(running)
    waiting = await session.submit(**_SHORT)
    s3.terminate()
    with servers.own_s3_server(tmp_path / "s3") as changed:
        assert (await session.get(path_of_picture(finished))).status == 503
        keys = {"MINIO_SECRET_KEY": changed.minio_settings().minio_secret_key.get_secret_value()}
        assert deployment.services["gateway"].process.terminate(PATIENCE_S) == 0
        deployment.start_gateway(keys)
        deployment.start_worker("one", keys)
        async with _client(deployment) as again:
            again.token = session.token
            for event in (finished, await again.ended(waiting)):
                assert (await again.get_once_there(path_of_picture(event))).status == 200
