"""Websocket clients: the events of their session, each through its own bounded queue.

A stalled socket delays nobody: events are put into queues without waiting, and a client whose queue is full, or that
does not accept an event in time, is closed. Progress is dropped before that; stored events never are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain

import structlog
from aiohttp import WSCloseCode, web
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.errors import Unavailable
from sd_common.logged_event import event_type_of
from sd_common.nats_client import NatsClient
from sd_common.task_log import TaskLog
from sd_gateway.authn import Authenticator, VerifiedToken
from sd_gateway.client_socket import ClientSocket, accept
from sd_gateway.event_feed import EventFeed
from sd_gateway.metrics import GatewayMetrics
from sd_gateway.outbox import Outbox
from sd_gateway.session_events import SessionEvents
from sd_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)


class Websockets:
    """Serves websocket clients."""

    def __init__(
        self,
        nats: NatsClient,
        feed: EventFeed,
        task_log: TaskLog,
        authenticator: Authenticator,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        self._metrics = metrics
        self._nats = nats
        self._feed = feed
        self._task_log = task_log
        self._authenticator = authenticator
        self._settings = settings
        self._clients: defaultdict[str, set[ClientSocket]] = defaultdict(set)
        self._is_stopping = False

    async def refuse(
        self, request: web.Request, code: WSCloseCode, reason: str, sentence: str
    ) -> web.WebSocketResponse:
        """Complete the handshake to say why there is nothing to hear: browsers tell a page nothing of a refused one.
        `reason` is for the operator's figures."""
        client = await accept(request)
        await self._close(client, code, reason, sentence)
        return client.response

    async def serve(
        self, request: web.Request, token: VerifiedToken, *, since: int | None, progress: bool
    ) -> web.WebSocketResponse:
        """Send the session's events until the client goes away, or its token is not valid any more: those after the
        sequence `since` first, where given. What is stored once the client sees the handshake is never missed."""
        identity, settings = token.identity, self._settings
        outbox = Outbox(settings.websocket_queue_events, self._metrics.progress_dropped.inc)

        async def on_progress(message: Msg) -> None:
            if event_type_of(message.data) is not None:
                outbox.put_if_roomy(message.data)

        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._feed.session_listener(identity.user, identity.session, outbox.put))
            if progress:
                subject = subjects.progress_of_session(identity.user, identity.session)
                await stack.enter_async_context(self._nats.subscribed(subject, on_progress))
            client = await accept(request)
            if self._is_stopping:  # its handshake had begun before
                await self._close_for_stop(client)
                return client.response
            most = settings.max_websockets_per_user
            if len(self._clients.get(identity.holder, ())) >= most:
                sentence = f"You have {most} websockets here: close one first"
                await self._close(client, WSCloseCode.TRY_AGAIN_LATER, "too_many", sentence)
                return client.response
            stack.enter_context(self._registered(identity.holder, client))
            events = SessionEvents(
                identity, self._feed, self._task_log, outbox, client, settings.websocket_send_timeout_s
            )
            sending = asyncio.create_task(self._send(events, client, since), name="websocket-send")
            stack.callback(sending.cancel)
            ending = asyncio.create_task(self._close_once_refused(client, token), name="websocket-token-end")
            stack.callback(ending.cancel)
            await client.wait_until_closed()
        return client.response

    async def close_all(self) -> None:
        """Tell every client that this gateway goes away, and from now on those whose handshake is under way."""
        self._is_stopping = True
        await asyncio.gather(*map(self._close_for_stop, chain.from_iterable(self._clients.values())))

    async def _close_for_stop(self, client: ClientSocket) -> None:
        await self._close(client, WSCloseCode.GOING_AWAY, "stopping", "Gateway is stopping")

    async def _close(self, client: ClientSocket, code: WSCloseCode, reason: str, sentence: str) -> None:
        self._metrics.websocket_closes.labels(reason).inc()
        await client.close(code, sentence)

    @contextlib.contextmanager
    def _registered(self, holder: str, client: ClientSocket) -> Iterator[None]:
        self._clients[holder].add(client)
        try:
            with self._metrics.websocket_clients.track_inprogress():
                yield
        finally:
            self._clients[holder].discard(client)
            if not self._clients[holder]:
                del self._clients[holder]

    async def _close_once_refused(self, client: ClientSocket, token: VerifiedToken) -> None:
        refusal = await self._authenticator.wait_until_refused(token)
        await self._close(client, WSCloseCode.POLICY_VIOLATION, "refused", str(refusal))

    async def _send(self, events: SessionEvents, client: ClientSocket, since: int | None) -> None:
        try:
            await events.send(since)
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
