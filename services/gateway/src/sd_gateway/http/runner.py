"""aiohttp's runner, with requests that are not HTTP, or expect what nobody does, answered as problems too.

aiohttp answers those itself, before any middleware: in plain text, and the former with a traceback in the log that
quotes the request line, where a token may stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from sd_gateway.client_socket import cut_off
from sd_gateway.http.connections import ConnectionsOfAddresses
from sd_gateway.http.problems import CONTENT_TYPE, INTERNAL_SENTENCE, RETRY_AFTER_S, create_problem

log = structlog.get_logger(__name__)

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: Bytes of a request line and of a header: prompts, and small pictures as data URLs, fit into a GET.
MAX_LINE_BYTES = 256 * 1024
#: Seconds within which a client takes what is sent to it, a piece of a larger answer at a time.
_MAX_STALL_S = 60.0

_PROBLEM = create_problem(
    HTTPStatus.TOO_MANY_REQUESTS, "Your address has as many connections as it may: close some, or use them again"
)
_BODY = _PROBLEM.body()
_TOO_MANY_CONNECTIONS = (
    f"HTTP/1.1 429 {_PROBLEM.title}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(_BODY)}\r\n"
    f"X-Content-Type-Options: nosniff\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
).encode() + _BODY


class GatewayRunner(web.AppRunner):
    """Use as `web.AppRunner`."""

    def __init__(self, app: web.Application, connections: ConnectionsOfAddresses, **options: Any) -> None:
        super().__init__(app, **options)
        self._connections = connections

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # aiohttp has no parameter for the class of its connections
        assert isinstance(server, _Server)
        server.of_addresses = self._connections
        server.request_handler = _with_expectations_refused(server.request_handler)
        return server


class _Server(web.Server):
    of_addresses: ConnectionsOfAddresses

    def __call__(self) -> RequestHandler:
        connection = _Connection(self, loop=self._loop, **self._kwargs)
        connection.of_addresses = self.of_addresses
        return connection


class _Connection(RequestHandler):
    __slots__ = ("carrier", "cutting_off", "of_addresses", "peer")  # as aiohttp's

    of_addresses: ConnectionsOfAddresses
    peer: str | None
    #: aiohttp's own goes when it closes the connection, which stays while the client takes nothing.
    carrier: asyncio.Transport
    cutting_off: asyncio.TimerHandle | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.carrier = cast("asyncio.Transport", transport)  # uvloop's has no base in common with it
        self.cutting_off = None
        self.carrier.set_write_buffer_limits(0)  # whatever is not taken at once pauses the writing
        name = transport.get_extra_info("peername")
        peer = str(name[0]) if isinstance(name, tuple) else ""
        self.peer = peer if self.of_addresses.admit(peer) else None
        if self.peer is not None:
            super().connection_made(transport)
            return
        self.force_close()  # what comes is not read
        self.carrier.write(_TOO_MANY_CONNECTIONS)
        self.carrier.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.peer is not None:
            self.of_addresses.leave(self.peer)
        self._keep()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.cutting_off = self._loop.call_later(_MAX_STALL_S, self._cut_off)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._keep()

    def _keep(self) -> None:
        if self.cutting_off is not None:
            self.cutting_off.cancel()
            self.cutting_off = None

    def _cut_off(self) -> None:
        self.cutting_off = None
        if self._payload_parser is None:  # a websocket's client has another limit
            log.warning("answer_not_taken", within_s=_MAX_STALL_S)
            cut_off(self.carrier)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        log.warning("bad_request_refused", status=status, error=type(exc).__name__)
        detail = (
            "The request is not valid HTTP: is something in the URL not percent-encoded, or is it longer than "
            f"{MAX_LINE_BYTES:,} bytes?"
            if status < HTTPStatus.INTERNAL_SERVER_ERROR
            else INTERNAL_SENTENCE
        )
        response = _problem(HTTPStatus(status), detail)
        # None are added to what never reached the application.
        response.headers[hdrs.X_CONTENT_TYPE_OPTIONS] = "nosniff"
        response.force_close()
        return response


def _with_expectations_refused(handler: _Handler) -> _Handler:
    """The handler, with a problem for what `Expect` asks for and nobody does."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPExpectationFailed as error:
            log.warning("bad_request_refused", status=error.status, error=type(error).__name__)
            return _problem(HTTPStatus.EXPECTATION_FAILED, "Nothing but 100-continue may be expected: leave Expect out")

    return handle


def _problem(status: HTTPStatus, detail: str) -> web.Response:
    return web.Response(status=status, body=create_problem(status, detail).body(), content_type=CONTENT_TYPE)
