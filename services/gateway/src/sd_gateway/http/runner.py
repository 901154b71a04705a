"""aiohttp's runner, with requests that are not HTTP answered as problems too.

aiohttp answers those itself, before any middleware: in plain text, and with a traceback in the log that quotes the
request line, where a token may stand.
"""

from __future__ import annotations

from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.web_protocol import RequestHandler

from sd_gateway.http.problems import CONTENT_TYPE, create_problem

log = structlog.get_logger(__name__)

#: Bytes of a request line and of a header: prompts, and small pictures as data URLs, fit into a GET.
MAX_LINE_BYTES = 256 * 1024


class GatewayRunner(web.AppRunner):
    """Use as `web.AppRunner`."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server  # aiohttp has no parameter for the class of its connections
        return server


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
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
            else "Something went wrong here; the operator's log tells what"
        )
        body = create_problem(HTTPStatus(status), detail).model_dump_json(exclude_none=True).encode()
        headers = {hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff"}  # none are added to what never reached the application
        response = web.Response(status=status, body=body, content_type=CONTENT_TYPE, headers=headers)
        response.force_close()
        return response
