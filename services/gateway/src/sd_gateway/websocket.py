"""Websocket clients: the events of their session, each through its own bounded queue.

A stalled socket delays nobody: events are put into queues without waiting, and a client whose queue is full, or that
does not accept an event in time, is closed. Progress is dropped before that; stored events never are.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass

import structlog
from aiohttp import WSCloseCode, web
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.nats_client import NatsClient
from sd_common.task_log import LoggedEvent
from sd_gateway.authn import Authenticator, VerifiedToken
from sd_gateway.event_feed import EventFeed
from sd_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

_PING_INTERVAL_S = 20.0
_CLOSE_TIMEOUT_S = 2.0
#: `struct linger`: on, for 0 seconds.
_LINGER_NOT = struct.pack("ii", 1, 0)
#: Clients have nothing to say here.
_MAX_MESSAGE_BYTES = 4096


class _Outbox:
    """What is to be sent to one client."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._messages: deque[str] = deque()
        self._filled = asyncio.Event()
        self.is_full = False

    def put(self, message: str) -> None:
        if len(self._messages) >= self._capacity:
            self.is_full = True
        else:
            self._messages.append(message)
        self._filled.set()

    def put_if_roomy(self, message: str) -> None:
        """For what may be dropped: the second half of the queue is kept for the rest."""
        if len(self._messages) < self._capacity / 2:
            self.put(message)

    async def get(self) -> str:
        while not self._messages and not self.is_full:
            self._filled.clear()
            await self._filled.wait()
        if self.is_full:
            raise asyncio.QueueFull
        return self._messages.popleft()


@dataclass(eq=False)
class _Client:
    """One websocket, and the connection that carries it."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None

    async def close(self, code: WSCloseCode, reason: str) -> None:
        """Say why, and close. A client that does not even read that is cut off."""
        closing = asyncio.ensure_future(self.socket.close(code=code, message=reason.encode()))
        await asyncio.wait([closing], timeout=_CLOSE_TIMEOUT_S)
        # aiohttp ends with a close that lets the buffer drain, which it never does here.
        if self.transport is not None and (not closing.done() or self.transport.get_write_buffer_size()):
            _reset(self.transport)
        await asyncio.gather(closing, return_exceptions=True)


def _reset(transport: asyncio.Transport) -> None:
    """Cut off, with a reset: else the kernel would keep megabytes for a client that reads nothing."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # it has gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


class Websockets:
    """Serves websocket clients."""

    def __init__(
        self, client: NatsClient, feed: EventFeed, authenticator: Authenticator, settings: GatewaySettings
    ) -> None:
        self._nats = client
        self._feed = feed
        self._authenticator = authenticator
        self._settings = settings
        self._clients: set[_Client] = set()

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """Complete the handshake."""
        accepted = web.WebSocketResponse(
            heartbeat=_PING_INTERVAL_S, timeout=_CLOSE_TIMEOUT_S, max_msg_size=_MAX_MESSAGE_BYTES
        )
        await accepted.prepare(request)
        return accepted

    async def serve(
        self, request: web.Request, accepted: web.WebSocketResponse, token: VerifiedToken, *, progress: bool
    ) -> None:
        """Send the session's events until the client goes away, or its token is not valid any more."""
        identity = token.identity
        client = _Client(accepted, request.transport)
        outbox = _Outbox(self._settings.websocket_queue_events)

        def on_event(event: LoggedEvent) -> None:
            outbox.put(event.shown().decode())

        async def on_progress(message: Msg) -> None:
            outbox.put_if_roomy(message.data.decode())

        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._feed.session_listener(identity.user, identity.session, on_event))
            if progress:
                subject = subjects.progress_of_session(identity.user, identity.session)
                subscription = await self._nats.subscribe(subject, cb=on_progress)
                stack.push_async_callback(subscription.unsubscribe)
            self._clients.add(client)
            stack.callback(self._clients.discard, client)
            sending = asyncio.create_task(self._send_all(client, outbox), name="websocket-send")
            stack.callback(sending.cancel)
            ending = asyncio.create_task(self._close_once_refused(client, token), name="websocket-token-end")
            stack.callback(ending.cancel)
            async for _ in accepted:
                pass  # reads answer pings and see the close; what clients say is ignored

    async def close_all(self) -> None:
        """Tell every client that this gateway goes away."""
        await asyncio.gather(*(client.close(WSCloseCode.GOING_AWAY, "Gateway is stopping") for client in self._clients))

    async def _close_once_refused(self, client: _Client, token: VerifiedToken) -> None:
        refusal = await self._authenticator.wait_until_refused(token)
        await client.close(WSCloseCode.POLICY_VIOLATION, str(refusal))

    async def _send_all(self, client: _Client, outbox: _Outbox) -> None:
        try:
            while True:
                message = await outbox.get()
                async with asyncio.timeout(self._settings.websocket_send_timeout_s):
                    await client.socket.send_str(message)
        except (asyncio.QueueFull, TimeoutError):
            log.warning("websocket_too_slow")
            await client.close(WSCloseCode.TRY_AGAIN_LATER, "Too slow: events were waiting")
        except ConnectionError:
            pass  # the reading side sees the close
