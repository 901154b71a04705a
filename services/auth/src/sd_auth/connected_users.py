"""The users, for commands: with a connection to NATS of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from sd_auth.users import Users
from sd_common.buckets import Bucket
from sd_common.errors import Unavailable
from sd_common.nats_client import connect
from sd_common.nats_settings import NatsSettings
from sd_common.streams import USERS_BUCKET

#: Seconds in which NATS must be there: a service waits for it, somebody at a terminal is told.
_CONNECT_WITHIN_S = 15.0


@contextlib.asynccontextmanager
async def connected_users(settings: NatsSettings, within_s: float = _CONNECT_WITHIN_S) -> AsyncGenerator[Users, None]:
    """All users, while inside. Raises `Unavailable` where NATS is not there within `within_s`."""
    try:
        async with asyncio.timeout(within_s):
            client = await connect(settings, "auth")
    except TimeoutError:
        raise Unavailable("The message broker") from None
    try:
        yield Users(Bucket(client, USERS_BUCKET))
    finally:
        await client.shut()
