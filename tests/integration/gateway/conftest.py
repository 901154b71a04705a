"""Gateways in this process, on real servers, with an auth service beside them."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.nats_settings import NatsSettings
from sd_common.s3_client import MinioSettings
from sd_gateway.app import GatewayApp
from sd_gateway.remote_pictures import INTERNET, Reach
from sd_gateway.settings import GatewaySettings
from support.client import Client
from support.servers import NatsServer, nats_settings_of
from support.stack import NO_RATES

_NO_RATES: dict[str, Any] = {name.lower(): None for name in NO_RATES}

StartGateway = Callable[..., Awaitable[tuple[GatewayApp, str]]]
StartAuth = Callable[..., Awaitable[AuthApp]]


@pytest.fixture
def secret_key() -> SecretStr:
    """What tokens are signed with."""
    return SecretStr(secrets.token_hex(32))


@pytest_asyncio.fixture
async def start_auth(
    provisioned: NatsSettings, nats_server: NatsServer, secret_key: SecretStr
) -> AsyncIterator[StartAuth]:
    """Starts an auth service with settings of the test's; stopped when the test ends."""
    async with AsyncExitStack() as running:

        async def start(**settings: Any) -> AuthApp:
            defaults = {"secret_key": secret_key, "enable_public_access": True, "enable_signup": True}
            auth_settings = AuthSettings(_env_file=None, health_port=None, **{**defaults, **settings})
            app = AuthApp(auth_settings, nats_settings_of(nats_server, "auth"))
            running.push_async_callback(app.stop)
            await app.start()
            return app

        yield start


@pytest_asyncio.fixture
async def auth(start_auth: StartAuth) -> AuthApp:
    """The auth service."""
    return await start_auth()


@pytest_asyncio.fixture
async def start_gateway(
    auth: AuthApp, nats_server: NatsServer, minio_settings: MinioSettings
) -> AsyncIterator[StartGateway]:
    """Starts a gateway with settings of the test's, and tells where it listens; stopped when the test ends."""
    async with AsyncExitStack() as running:

        async def start(
            nats_settings: NatsSettings | None = None,
            *,
            reach: Reach = INTERNET,
            until_ready: bool = True,
            **settings: Any,
        ) -> tuple[GatewayApp, str]:
            listening = socket.create_server(("127.0.0.1", 0))
            base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            gateway_settings = GatewaySettings(
                _env_file=None, **{"base_url": base_url, "health_port": None, **_NO_RATES, **settings}
            )
            nats_settings = nats_settings or nats_settings_of(nats_server, "gateway")
            gateway = GatewayApp(gateway_settings, nats_settings, minio_settings, reach)
            running.push_async_callback(gateway.stop)
            await gateway.start(listening)
            if until_ready:
                await gateway.ready()
            return gateway, base_url

        yield start


@pytest_asyncio.fixture
async def gateway(start_gateway: StartGateway) -> tuple[GatewayApp, str]:
    """One as it is without settings, and where it listens."""
    return await start_gateway()


@pytest_asyncio.fixture
async def client(gateway: tuple[GatewayApp, str]) -> AsyncIterator[Client]:
    """At that gateway, with a token."""
    async with Client(gateway[1]) as client:
        await client.take_public_token()
        yield client
