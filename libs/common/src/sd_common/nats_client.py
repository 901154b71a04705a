"""The connection to NATS: reconnects for ever, and tells whoever wants to know."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from sd_common.settings import NatsSettings

log = structlog.get_logger(__name__)

#: A publish or request that got no answer within this many seconds has failed.
REQUEST_TIMEOUT_S = 5.0

ReconnectListener = Callable[[], Awaitable[None]]


class NatsClient(Client):
    """A nats-py client that several parts can ask to be told of reconnects."""

    def __init__(self) -> None:
        super().__init__()
        self._reconnect_listeners: list[ReconnectListener] = []

    def on_reconnect(self, listener: ReconnectListener) -> Callable[[], None]:
        """Call `listener` after every reconnect, until the returned function is called."""
        self._reconnect_listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._reconnect_listeners.remove(listener)

        return forget

    async def tell_reconnected(self) -> None:
        log.info("nats_reconnected")
        for listener in list(self._reconnect_listeners):
            try:
                await listener()
            except Exception:
                # One part that fails to recover must not keep the others from it.
                log.exception("reconnect_listener_failed")


async def connect(settings: NatsSettings, name: str) -> NatsClient:
    """Connect as `name`. Waits for a server that is not there yet: services may start in any order."""

    async def log_error(error: Exception) -> None:
        # nats-py shows a permission denial as a timeout; its cause is only told here.
        log.warning("nats_error", error=str(error) or type(error).__name__)

    async def log_disconnect() -> None:
        log.warning("nats_disconnected")

    servers = [url.strip() for url in settings.nats_url.get_secret_value().split(",")]
    client = NatsClient()
    await client.connect(
        servers=servers,
        name=name,
        inbox_prefix=f"_INBOX_{urlsplit(servers[0]).username or name}",
        max_reconnect_attempts=-1,  # the default of 60 ends in a closed connection
        reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; annotated as int, used as a float
        ping_interval=10,
        connect_timeout=5,
        allow_reconnect=True,
        error_cb=log_error,
        disconnected_cb=log_disconnect,
        reconnected_cb=client.tell_reconnected,
    )
    return client


async def disconnect(client: NatsClient) -> None:
    """Flush what is under way and close. Safe to call while the server is away."""
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        if client.is_connected:
            await client.flush(timeout=2)
    await client.close()
