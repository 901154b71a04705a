"""Running auth services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest_asyncio

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.nats_settings import NatsSettings
from support.auth_requests import StartAuth, create_auth_settings
from support.servers import NatsServer, nats_settings_of


@pytest_asyncio.fixture
async def start_auth(nats_server: NatsServer) -> AsyncIterator[StartAuth]:
    """Starts an auth service against the test's nats-server; it stops with the test."""
    async with AsyncExitStack() as running:

        async def start(settings: AuthSettings) -> AuthApp:
            app = AuthApp(settings, nats_settings_of(nats_server, "auth"))
            running.push_async_callback(app.stop)
            await app.start()
            return app

        yield start


@pytest_asyncio.fixture
async def auth(provisioned: NatsSettings, start_auth: StartAuth) -> AuthApp:
    """An auth service with everything enabled."""
    return await start_auth(create_auth_settings())
