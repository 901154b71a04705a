"""Connections of tests to NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings


@asynccontextmanager
async def connected(settings: NatsSettings, name: str = "test") -> AsyncIterator[NatsClient]:
    """One that is shut at the end."""
    client = await connect(settings, name)
    try:
        yield client
    finally:
        await client.shut()
