"""One client's websocket, and the connection that carries it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from aiohttp import WSCloseCode, WSMsgType, hdrs, web

#: Seconds between pings. Proxies in front must not close a websocket that was quiet for as long.
PING_INTERVAL_S = 20.0
_CLOSE_TIMEOUT_S = 2.0
#: `struct linger`: on, for 0 seconds.
_LINGER_NOT = struct.pack("ii", 1, 0)
_NO_WEBSOCKET = (
    "Here is a websocket: open it with a client for websockets, such as `new WebSocket(…)`, or ask for one task at "
    "GET /task/{task_id}"
)
_MALFORMED = (
    "The handshake of the websocket is malformed: it needs `Connection: Upgrade`, `Sec-WebSocket-Version: 13` and a "
    "`Sec-WebSocket-Key`"
)
#: Clients have nothing to say here.
_MAX_MESSAGE_BYTES = 4096
#: What the protocol allows, less the code.
_MAX_REASON_BYTES = 123


class ClientSocket:
    """A websocket whose handshake is complete."""

    def __init__(self, response: web.WebSocketResponse, transport: asyncio.Transport | None) -> None:
        self.response = response
        self._transport = transport

    async def send(self, message: bytes, timeout_s: float) -> None:
        """Send a text. Raises `TimeoutError` where the client does not take it in time, `ConnectionError` where it has
        gone."""
        async with asyncio.timeout(timeout_s):
            await self.response.send_frame(message, WSMsgType.TEXT)

    async def wait_until_closed(self) -> None:
        """Read until the client closes, or is closed: reads answer pings. What clients say is ignored."""
        async for _ in self.response:
            pass

    async def close(self, code: WSCloseCode, sentence: str) -> None:
        """Say why, with as much of the sentence as a close may carry. A client that does not even read that is cut
        off."""
        cut = sentence.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
        closing = asyncio.ensure_future(self.response.close(code=code, message=cut.encode()))
        await asyncio.wait([closing], timeout=_CLOSE_TIMEOUT_S)
        # aiohttp ends with a close that lets the buffer drain, which it never does here.
        if self._transport is not None and (not closing.done() or self._transport.get_write_buffer_size()):
            cut_off(self._transport)
        await asyncio.gather(closing, return_exceptions=True)


async def accept(request: web.Request) -> ClientSocket:
    """Complete the handshake. Raises `web.HTTPBadRequest` where the request is none, `ConnectionError` where the client
    has gone."""
    if request.headers.get(hdrs.UPGRADE, "").strip().lower() != "websocket":
        raise web.HTTPBadRequest(text=_NO_WEBSOCKET)
    transport = request.transport  # the request forgets it when the client goes away
    response = web.WebSocketResponse(
        heartbeat=PING_INTERVAL_S,
        timeout=_CLOSE_TIMEOUT_S,
        max_msg_size=_MAX_MESSAGE_BYTES,
        compress=False,  # events are small, and a compressor takes a quarter of a megabyte a client
    )
    try:
        await response.prepare(request)
    except (web.HTTPBadRequest, ValueError) as error:  # the latter of a key that is not ASCII
        raise web.HTTPBadRequest(text=_MALFORMED) from error
    if transport is not None:
        transport.set_write_buffer_limits()  # events are many and small: they need not be written one by one
    return ClientSocket(response, transport)


def cut_off(transport: asyncio.Transport) -> None:
    """Close with a reset: else the kernel would keep megabytes for a client that reads nothing."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):  # it has gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()
