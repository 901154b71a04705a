"""Websocket clients: the events of their session, each through its own bounded queue.

A stalled socket delays nobody: events are put into queues without waiting, and a client whose queue is full, or that
does not accept an event in time, is closed. Progress is dropped before that; stored events never are.

A client that names the last sequence that it has (`since`) gets what came after it from the log first (ADR 21).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.errors import Unavailable
from sd_common.logged_event import LoggedEvent, event_type_of
from sd_common.nats_client import NatsClient
from sd_common.task_log import TaskLog
from sd_gateway.authn import Authenticator, Identity, VerifiedToken
from sd_gateway.event_feed import EventFeed
from sd_gateway.metrics import GatewayMetrics
from sd_gateway.outbox import Outbox
from sd_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

#: Seconds between pings. Proxies in front must not close a websocket that was quiet for as long.
PING_INTERVAL_S = 20.0
_CLOSE_TIMEOUT_S = 2.0
#: `struct linger`: on, for 0 seconds.
_LINGER_NOT = struct.pack("ii", 1, 0)
#: Clients have nothing to say here.
_MAX_MESSAGE_BYTES = 4096
#: What the protocol allows, less the code.
_MAX_REASON_BYTES = 123


@dataclass(eq=False)
class _Client:
    """One websocket, and the connection that carries it."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    holder: str

    async def close(self, code: WSCloseCode, reason: str) -> None:
        """Say why, and close. A client that does not even read that is cut off."""
        closing = asyncio.ensure_future(_close(self.socket, code, reason))
        await asyncio.wait([closing], timeout=_CLOSE_TIMEOUT_S)
        # aiohttp ends with a close that lets the buffer drain, which it never does here.
        if self.transport is not None and (not closing.done() or self.transport.get_write_buffer_size()):
            _reset(self.transport)
        await asyncio.gather(closing, return_exceptions=True)


async def _accept(request: web.Request) -> web.WebSocketResponse:
    accepted = web.WebSocketResponse(
        heartbeat=PING_INTERVAL_S,
        timeout=_CLOSE_TIMEOUT_S,
        max_msg_size=_MAX_MESSAGE_BYTES,
        compress=False,  # events are small, and a compressor takes a quarter of a megabyte a client
    )
    await accepted.prepare(request)
    return accepted


async def _close(socket: web.WebSocketResponse, code: WSCloseCode, reason: str) -> None:
    """Close with as much of the reason as a close may carry."""
    cut = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
    await socket.close(code=code, message=cut.encode())


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
        self,
        client: NatsClient,
        feed: EventFeed,
        task_log: TaskLog,
        authenticator: Authenticator,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        self._metrics = metrics
        self._nats = client
        self._feed = feed
        self._task_log = task_log
        self._authenticator = authenticator
        self._settings = settings
        self._clients: defaultdict[str, set[_Client]] = defaultdict(set)

    async def refuse(
        self, request: web.Request, code: WSCloseCode, reason: str, sentence: str
    ) -> web.WebSocketResponse:
        """Complete the handshake to say why there is nothing to hear: browsers tell a page nothing of a refused one.
        `reason` is for the operator's figures."""
        accepted = await _accept(request)
        self._metrics.websocket_closes.labels(reason).inc()
        await _close(accepted, code, sentence)
        return accepted

    async def serve(
        self, request: web.Request, token: VerifiedToken, *, since: int | None, progress: bool
    ) -> web.WebSocketResponse:
        """Send the session's events until the client goes away, or its token is not valid any more: those after the
        sequence `since` first, where given. What is stored once the client sees the handshake is never missed."""
        identity = token.identity
        outbox = Outbox(self._settings.websocket_queue_events, self._metrics.progress_dropped.inc)

        async def on_progress(message: Msg) -> None:
            if event_type_of(message.data) is not None:
                outbox.put_if_roomy(message.data)

        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._feed.session_listener(identity.user, identity.session, outbox.put))
            if progress:
                subject = subjects.progress_of_session(identity.user, identity.session)
                subscription = await self._nats.subscribe(subject, cb=on_progress)
                stack.push_async_callback(subscription.unsubscribe)
            accepted = await _accept(request)
            client = _Client(accepted, request.transport, identity.holder)
            most = self._settings.max_websockets_per_user
            if len(self._clients.get(client.holder, ())) >= most:
                sentence = f"You have {most} websockets here: close one first"
                await self._close(client, WSCloseCode.TRY_AGAIN_LATER, "too_many", sentence)
                return accepted
            stack.enter_context(self._registered(client))
            sending = asyncio.create_task(self._send_all(client, outbox, identity, since), name="websocket-send")
            stack.callback(sending.cancel)
            ending = asyncio.create_task(self._close_once_refused(client, token), name="websocket-token-end")
            stack.callback(ending.cancel)
            async for _ in accepted:
                pass  # reads answer pings and see the close; what clients say is ignored
        return accepted

    async def close_all(self) -> None:
        """Tell every client that this gateway goes away."""
        clients = chain.from_iterable(self._clients.values())
        sentence = "Gateway is stopping"
        await asyncio.gather(*(self._close(each, WSCloseCode.GOING_AWAY, "stopping", sentence) for each in clients))

    async def _close(self, client: _Client, code: WSCloseCode, reason: str, sentence: str) -> None:
        """As `refuse`, of a client that is served."""
        self._metrics.websocket_closes.labels(reason).inc()
        await client.close(code, sentence)

    @contextlib.contextmanager
    def _registered(self, client: _Client) -> Iterator[None]:
        self._clients[client.holder].add(client)
        try:
            with self._metrics.websocket_clients.track_inprogress():
                yield
        finally:
            self._clients[client.holder].discard(client)
            if not self._clients[client.holder]:
                del self._clients[client.holder]

    async def _close_once_refused(self, client: _Client, token: VerifiedToken) -> None:
        refusal = await self._authenticator.wait_until_refused(token)
        await self._close(client, WSCloseCode.POLICY_VIOLATION, "refused", str(refusal))

    async def _send_all(self, client: _Client, outbox: Outbox, identity: Identity, since: int | None) -> None:
        try:
            replayed_to = 0 if since is None else await self._replay(client, outbox, identity, since)
            while True:
                message = await outbox.get()
                if isinstance(message, LoggedEvent):
                    if message.sequence <= replayed_to:
                        continue
                    replayed_to = 0  # the feed is past it: a lower sequence would be that of a stream made anew
                    message = message.shown()
                await self._send(client, message)
        except (asyncio.QueueFull, TimeoutError):
            log.warning("websocket_too_slow")
            sentence = "Too slow: go on with since=<the last sequence received>"
            await self._close(client, WSCloseCode.TRY_AGAIN_LATER, "too_slow", sentence)
        except ConnectionError:
            pass  # the reading side sees the close
        except Unavailable as error:
            await self._close(client, WSCloseCode.TRY_AGAIN_LATER, "part_away", str(error))
        except Exception:
            log.exception("websocket_failed")
            sentence = "Go on with since=<the last sequence received>"
            await self._close(client, WSCloseCode.INTERNAL_ERROR, "failed", sentence)

    async def _replay(self, client: _Client, outbox: Outbox, identity: Identity, since: int) -> int:
        """Send what was stored after `since`, and return the sequence up to which the outbox adds nothing to it.

        What is told meanwhile waits in the outbox. Should it not hold all that, it begins anew and the log is read on.
        """
        sent = since
        session = subjects.events_of_session(identity.user, identity.session)
        while True:
            outbox.begin_anew()
            recent = self._feed.recent.of_session(identity.user, identity.session, sent)
            async for event in self._task_log.replay(session, sent + 1):
                await self._send(client, event.shown())
                sent = event.sequence
            for event in recent:  # a replica that lags has not shown these
                if event.sequence > sent:
                    await self._send(client, event.shown())
                    sent = event.sequence
            if not outbox.is_full:
                outbox.drop_progress()  # of tasks that may have been told to have ended since
                return sent

    async def _send(self, client: _Client, message: bytes) -> None:
        async with asyncio.timeout(self._settings.websocket_send_timeout_s):
            await client.socket.send_frame(message, WSMsgType.TEXT)
