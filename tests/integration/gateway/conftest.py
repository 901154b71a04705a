"""Gateways in this process, on real servers, with an auth service beside them."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest_asyncio
from pydantic import SecretStr

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.settings import MinioSettings, NatsSettings
from sd_gateway.app import GatewayApp
from sd_gateway.remote_pictures import INTERNET, Reach
from sd_gateway.settings import GatewaySettings

StartGateway = Callable[..., Awaitable[tuple[GatewayApp, str]]]


@pytest_asyncio.fixture
async def auth(provisioned: NatsSettings) -> AsyncIterator[AuthApp]:
    """An auth service that gives everybody public tokens."""
    secret_key = SecretStr(secrets.token_hex(32))
    auth_settings = AuthSettings(_env_file=None, secret_key=secret_key, enable_public_access=True, health_port=None)
    auth = AuthApp(auth_settings, provisioned)
    await auth.start()
    yield auth
    await auth.stop()


@pytest_asyncio.fixture
async def start_gateway(
    provisioned: NatsSettings, minio_settings: MinioSettings, auth: AuthApp
) -> AsyncIterator[StartGateway]:
    """Starts a gateway with settings of the test's, and tells where it listens; stopped when the test ends."""
    gateways: list[GatewayApp] = []

    async def start(*, reach: Reach = INTERNET, **settings: Any) -> tuple[GatewayApp, str]:
        listening = socket.create_server(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        gateway_settings = GatewaySettings(_env_file=None, base_url=base_url, **settings)
        gateways.append(GatewayApp(gateway_settings, provisioned, minio_settings, reach))
        await gateways[-1].start(listening)
        await gateways[-1].ready()
        return gateways[-1], base_url

    yield start
    for gateway in gateways:
        await gateway.stop()
