"""The HTTP server: the application of all operations, and how patient it is with connections."""

from __future__ import annotations

from aiohttp import web

from sd_gateway.http.connections import ConnectionsOfAddresses
from sd_gateway.http.content_encoding import content_encoding_middleware
from sd_gateway.http.middleware import problem_middleware
from sd_gateway.http.openapi import create_document
from sd_gateway.http.operations import add_operations
from sd_gateway.http.origins import add_cors_headers, origin_middleware
from sd_gateway.http.routes import OPERATIONS
from sd_gateway.http.runner import MAX_LINE_BYTES, GatewayRunner
from sd_gateway.http.security_headers import add_security_headers
from sd_gateway.http.sending import sending_middleware
from sd_gateway.http.service import add_documents
from sd_gateway.parts import PARTS, Parts

#: For how long a connection is still read whose answer was given before its body was: a refused upload's.
#: aiohttp's 10 s would hold up a stop by as much after a websocket client has vanished.
_LINGERING_S = 2.0
#: Seconds for which a connection may send no whole head of a request: silent ones are closed, and those that send it by
#: the byte. Longer than proxies in front keep a connection that is not used (nginx: 60 s), so that they close it.
_MAX_HEAD_S = 75.0


def create_runner(parts: Parts) -> GatewayRunner:
    """The server, to be set up and given a site to listen on."""
    return GatewayRunner(
        _create_app(parts),
        ConnectionsOfAddresses(parts.settings.max_connections_per_address, parts.settings.trusted_proxies),
        handler_cancellation=True,  # a client that goes away cancels its request, which aborts its task
        access_log=None,
        shutdown_timeout=parts.settings.shutdown_timeout_s,
        keepalive_timeout=_MAX_HEAD_S,
        lingering_time=_LINGERING_S,
        auto_decompress=False,  # what a refused body unpacks to would be read too
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
    )


def _create_app(parts: Parts) -> web.Application:
    middlewares = [problem_middleware, origin_middleware, content_encoding_middleware, sending_middleware]
    app = web.Application(middlewares=middlewares, client_max_size=parts.settings.largest_body_bytes)
    app[PARTS] = parts
    app.on_response_prepare.extend([add_security_headers, add_cors_headers])
    add_operations(app, OPERATIONS)
    add_documents(app, create_document())
    return app
