"""Answers that are not small: counted while they are in memory, and sent a piece at a time, within a time.

A client decides for how long its answer is held. Pictures are whole in memory while they are sent, rather than read
from the store as the client takes them: so a slow client holds no connection to the store, and none of the threads that
read from it.
"""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from sd_gateway.byte_budget import FREE_BYTES
from sd_gateway.client_socket import cut_off
from sd_gateway.http.client_address import client_address
from sd_gateway.parts import PARTS

#: Seconds that a client may take for its answer: the largest picture comes in time by 0.6 Mbit/s.
_MAX_SENDING_S = 300.0
#: What a connection holds besides the answer: asyncio copies what it cannot send at once.
_PIECE_BYTES = 128 * 1024


@web.middleware
async def sending_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send what is not small, unless the handler has done so. Raises what `Share.take` does."""
    response = await handler(request)
    if not isinstance(response, web.Response) or response.prepared:
        return response
    num_bytes = len(_body_of(response))
    if num_bytes <= FREE_BYTES:
        return response
    with request.app[PARTS].answer_bytes.share(client_address(request)) as share:
        share.take(num_bytes)
        return await send(request, response)


async def send(request: web.Request, response: web.Response) -> web.StreamResponse:
    """Send an answer that is not small. Raises `ConnectionError` where the client has gone, or takes too long and was
    cut off."""
    body = memoryview(_body_of(response))
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    sent.content_length = len(body)
    transport = request.transport  # the request forgets it when the client goes away
    try:
        async with asyncio.timeout(_MAX_SENDING_S):
            await sent.prepare(request)
            for start in range(0, 0 if request.method == hdrs.METH_HEAD else len(body), _PIECE_BYTES):
                await sent.write(body[start : start + _PIECE_BYTES])
            await sent.write_eof()
    except TimeoutError:
        if transport is not None:
            cut_off(transport)
        raise ConnectionAbortedError(f"The answer was not taken within {_MAX_SENDING_S:g} s") from None
    return sent


def _body_of(response: web.Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b""
