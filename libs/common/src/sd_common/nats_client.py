"""The connection to NATS: reconnects for ever, and tells whoever wants to know."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sd_common.errors import Unavailable
from sd_common.full_stores import refused_as_full
from sd_common.mended_client import MendedClient
from sd_common.metrics import NatsMetrics
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import inbox_prefix_of

log = structlog.get_logger(__name__)

#: A publish or request that got no answer within this many seconds has failed.
REQUEST_TIMEOUT_S = 5.0
#: Pause between two tries to reconnect.
_RECONNECT_PAUSE_S = 0.25
#: Seconds between two lines that say that there is no room: every message is refused then.
_TELL_STORE_FULL_EVERY_S = 60.0
#: In a cluster, a client whose server was lost is at another one within this many seconds.
RECONNECT_WITHIN_S = 1.0

ReconnectListener = Callable[[], Awaitable[None]]


class NatsClient(MendedClient):
    """A nats-py client that can be handed around before it is open, and tells several parts of reconnects."""

    def __init__(self, settings: NatsSettings, name: str, metrics: NatsMetrics | None = None) -> None:
        super().__init__()
        self._metrics = metrics or NatsMetrics()
        self._settings = settings
        self._name = name
        self._was_opened = False
        self._is_shutting = False
        self._last_error = ""
        self._connected = asyncio.Event()
        self._away_since = time.monotonic()
        self._store_full_told_at = -math.inf
        self._reconnect_listeners: list[ReconnectListener] = []

    @property
    def user(self) -> str | None:
        """The user name that it logs in with, if it has one."""
        return self._settings.user

    async def open(self) -> None:
        """Connect. Waits for a server that is not there yet: services may start in any order."""
        settings = self._settings
        await self.connect(
            servers=settings.servers,
            user=settings.nats_user,  # without these, nats-py takes them from the URL
            password=settings.password,
            tls=ssl.create_default_context(cafile=settings.nats_tls_ca) if settings.nats_tls_ca else None,
            name=self._name,
            inbox_prefix=inbox_prefix_of(settings.user or self._name),
            max_reconnect_attempts=-1,  # the default of 60 ends in a closed connection
            reconnect_time_wait=_RECONNECT_PAUSE_S,  # type: ignore[arg-type]  # seconds; annotated as int, used as a float
            ping_interval=10,
            connect_timeout=5,
            allow_reconnect=True,
            error_cb=self._log_error,
            disconnected_cb=self._note_disconnect,
            reconnected_cb=self._tell_reconnected,
        )
        self._was_opened = True
        self._connected.set()

    async def shut(self) -> None:
        """Send what is buffered, and close. Safe to call while the server is away, and before the client is open."""
        self._is_shutting = True
        is_flushed = False
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            if self.is_connected:
                await self.flush(timeout=2)
                is_flushed = True
        if not is_flushed:  # nats-py's close would try again, fail, and leave the rest of itself undone
            self._pending = []
            self._pending_data_size = 0
        with contextlib.suppress(AssertionError):  # nats-py's, where it was never connected
            await self.close()

    async def check_connected(self) -> None:
        """Return when there is a connection. One that was lost is waited for: until `RECONNECT_WITHIN_S` after its
        loss, and later for as long as a server that is back already may take to be found. Raises `Unavailable`."""
        left_s = self._away_since + RECONNECT_WITHIN_S - time.monotonic()
        try:
            async with asyncio.timeout(max(left_s, 2 * _RECONNECT_PAUSE_S)):
                await self._connected.wait()
        except TimeoutError:
            raise Unavailable("The message broker") from None

    def on_reconnect(self, listener: ReconnectListener) -> Callable[[], None]:
        """Call `listener` after every reconnect, until the returned function is called."""
        self._reconnect_listeners.append(listener)

        def forget() -> None:
            with contextlib.suppress(ValueError):
                self._reconnect_listeners.remove(listener)

        return forget

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, Any] | None = None
    ) -> None:
        """As nats-py's; raises `ConnectionReconnectingError` before the client was open."""
        try:
            self._check_opened()
            await super().publish(subject, payload, reply, headers)
        except nats.errors.Error:
            self._metrics.publish_errors.inc()
            raise

    async def subscribe(self, subject: str, *args: Any, **kwargs: Any) -> Subscription:
        """As nats-py's; raises as `publish`."""
        self._check_opened()
        return await super().subscribe(subject, *args, **kwargs)

    @contextlib.asynccontextmanager
    async def subscribed(
        self, subject: str, cb: Callable[[Msg], Awaitable[None]] | None = None
    ) -> AsyncGenerator[Subscription, None]:
        """Subscribe while in the block, which ends as it does where the connection was closed meanwhile. Raises as
        `subscribe`."""
        subscription = await self.subscribe(subject, cb=cb)
        try:
            yield subscription
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = REQUEST_TIMEOUT_S,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """As nats-py's, which all of JetStream goes through."""
        try:
            answer = await super().request(subject, payload, timeout, old_style, headers)
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
            self._metrics.request_errors.inc()
            raise
        if refused_as_full(answer.data):
            self._note_store_full(subject)
        return answer

    def _note_store_full(self, subject: str) -> None:
        self._metrics.store_errors.inc()
        if time.monotonic() - self._store_full_told_at > _TELL_STORE_FULL_EVERY_S:
            self._store_full_told_at = time.monotonic()
            log.error("nats_store_full", subject=subject)

    def _check_opened(self) -> None:
        if not self._was_opened:
            raise nats.errors.ConnectionReconnectingError

    def _connect_command(self) -> bytes:
        """As nats-py's, which tells the password to a server that offers no TLS, also where TLS is asked for."""
        if self._settings.needs_tls and not self._server_info.get("tls_required"):
            raise nats.errors.Error("nats: the server offers no TLS, which NATS_TLS_CA or tls:// asks for")
        return super()._connect_command()

    async def _log_error(self, error: Exception) -> None:
        # nats-py shows a permission denial as a timeout; its cause is only told here. Each of its tries to reconnect
        # ends here too.
        told = str(error) or type(error).__name__
        if self.is_connected or told != self._last_error:
            log.warning("nats_error", error=told)
        self._last_error = told

    async def _note_disconnect(self) -> None:
        self._connected.clear()
        self._away_since = time.monotonic()
        if not self._is_shutting:
            self._metrics.disconnects.inc()
            log.warning("nats_disconnected")

    async def _tell_reconnected(self) -> None:
        self._connected.set()
        log.info("nats_reconnected")
        # Side by side: one part that is slow to recover, or fails, must not keep the others from it.
        await asyncio.gather(*(self._tell(listener) for listener in list(self._reconnect_listeners)))

    async def _tell(self, listener: ReconnectListener) -> None:
        try:
            await listener()
        except Exception:
            log.exception("reconnect_listener_failed")


async def connect(settings: NatsSettings, name: str, metrics: NatsMetrics | None = None) -> NatsClient:
    """An open client. Waits as `NatsClient.open`."""
    client = NatsClient(settings, name, metrics)
    try:
        await client.open()
    except BaseException:
        await client.shut()
        raise
    return client
