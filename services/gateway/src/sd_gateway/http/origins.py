"""Which web pages may use this gateway: its own, of `BASE_URL`, and those of `ALLOWED_ORIGINS`, by fetch and websocket.

Browsers tell the page's origin with every request but plain GETs: those of what a page embeds, such as `<img>`, and of
links. These bring `Sec-Fetch-*` instead, where the gateway is reached by https or on the loopback. Programs tell
neither, and are not concerned.
"""

from __future__ import annotations

from functools import cache

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from yarl import URL

from sd_gateway.errors import EmbeddingNotAllowed, OriginNotAllowed
from sd_gateway.parts import PARTS

ANY_ORIGIN = "*"
#: As browsers write them.
_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
_PREFLIGHT_HEADERS = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Authorization, Content-Type, Idempotency-Key",
    hdrs.ACCESS_CONTROL_MAX_AGE: "600",
}
#: Headers of answers that pages may read, besides those that all may.
_EXPOSED_HEADERS = "ETag, Location, Retry-After"


@web.middleware
async def origin_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse pages of other origins, and answer what browsers ask before they let an allowed page go on."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None or _is_own(request, origin):
        return await handler(request)
    if not _is_allowed(request, origin):
        raise OriginNotAllowed(origin)
    if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        return web.Response(status=204, headers=_PREFLIGHT_HEADERS)
    return await handler(request)


def refuse_embedding(request: web.Request) -> None:
    """Refuse a GET that a page of another origin has the browser make beside what its user looks at: for operations
    that do more than tell something. A link that the user follows is let in. Raises `EmbeddingNotAllowed`."""
    headers = request.headers
    if headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
        return  # typed in, one of our own pages, a program, or a browser that does not tell
    if hdrs.ORIGIN in headers or ANY_ORIGIN in request.app[PARTS].settings.allowed_origins:
        return  # `origin_middleware` has let it in
    is_followed = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    if not is_followed or "prefetch" in headers.get("Sec-Purpose", ""):
        raise EmbeddingNotAllowed


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let an allowed page read the answer, errors as well. For `on_response_prepare`."""
    if not request.app[PARTS].settings.allowed_origins:
        return
    response.headers.add(hdrs.VARY, hdrs.ORIGIN)  # a cache must not give one origin the answer of another
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and _is_allowed(request, origin):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED_HEADERS


def _is_own(request: web.Request, origin: str) -> bool:
    """Whether the page is one of this gateway's. `Host` tells nothing: where a name server says that a stranger's name
    is this address (DNS rebinding), it is that name too."""
    return origin.lower() in own_origins(request.app[PARTS].settings.base_url)


@cache
def own_origins(base_url: str) -> frozenset[str]:
    """The origin of `BASE_URL`, with all names of the loopback where it has one of these."""
    url = URL(base_url)
    hosts = _LOOPBACK_HOSTS if url.host in _LOOPBACK_HOSTS else (url.host,)
    return frozenset(str(url.with_host(host or "").origin()).lower() for host in hosts)


def _is_allowed(request: web.Request, origin: str) -> bool:
    allowed = request.app[PARTS].settings.allowed_origins
    return ANY_ORIGIN in allowed or origin.lower() in allowed
