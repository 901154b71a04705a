"""Connections of tests to NATS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

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


async def is_let_in(url: str, **credentials: str) -> bool:
    """Whether the server at `url` takes these fields of its CONNECT for a user's."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        options = json.dumps({"verbose": False, "pedantic": False, "lang": "test", "version": "1", **credentials})
        await reader.readline()
        writer.write(f"CONNECT {options}\r\nPING\r\n".encode())
        answer = await reader.readline()
        assert answer == b"PONG\r\n" or b"Authorization Violation" in answer, answer
        return answer == b"PONG\r\n"
    finally:
        writer.close()
        await writer.wait_closed()
