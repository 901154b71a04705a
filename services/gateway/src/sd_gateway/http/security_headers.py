"""What browsers are told of every answer: run nothing that is not ours, guess no types, tell nobody the URL."""

from __future__ import annotations

from aiohttp import hdrs, web

CONTENT_SECURITY_POLICY = "Content-Security-Policy"

_HEADERS = {
    # Swagger UI draws its icons from data URLs. All scripts and styles are files below /static.
    CONTENT_SECURITY_POLICY: "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
    # A token may stand in the query.
    "Referrer-Policy": "no-referrer",
}


async def add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add them, where a handler has not set its own. For `on_response_prepare`."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
