"""Bodies come as they are: one that is compressed could unpack to anything, on the event loop, whoever sent it."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from sd_gateway.errors import UnsupportedBody


@web.middleware
async def content_encoding_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a body that is compressed, before it has come."""
    for coding in ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).split(","):
        if coding.strip().lower() not in ("", "identity"):
            raise UnsupportedBody(f"The body must not be compressed, and it has Content-Encoding: {coding.strip()}")
    return await handler(request)
