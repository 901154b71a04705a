"""Around every request: errors are answered as problems, one line is logged, the request is counted and traced."""

from __future__ import annotations

import time
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from sd_common.tracing import continued_trace
from sd_gateway.http.picture_page import problem_page, wants_html
from sd_gateway.http.problems import CONTENT_TYPE, INTERNAL_SENTENCE, Problem, create_problem, problem_of
from sd_gateway.http.request_spans import request_span
from sd_gateway.parts import PARTS

log = structlog.get_logger(__name__)

#: As nginx has it.
_CLIENT_LEFT = 499


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as problems, log one line per request, count it. The query is not logged: it may hold a token."""
    # A connection's requests share a context: what the one before has bound is not about this one.
    structlog.contextvars.clear_contextvars()
    if task_id := request.match_info.get("task_id"):
        structlog.contextvars.bind_contextvars(task_id=task_id)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else None
    started = time.perf_counter()
    status = _CLIENT_LEFT
    with continued_trace(request.headers), request_span(request, route) as tell:
        try:
            response = await _answer(request, handler)
            status = response.status
        finally:
            seconds = time.perf_counter() - started
            request.app[PARTS].metrics.answered(request.method, route, status, seconds)
            tell(status)
            log.info("request", method=request.method, route=route, status=status, ms=round(1000 * seconds, 1))
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return _respond(request, create_problem(HTTPStatus(error.status), _sentence_of(error, request)), headers)
    except Exception as error:
        if (told := problem_of(error)) is not None:
            return _respond(request, *told)
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            return web.Response(status=_CLIENT_LEFT)  # in a handshake; nobody reads it
        log.exception("request_failed")
        return _respond(request, create_problem(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_SENTENCE), {})


def _respond(request: web.Request, problem: Problem, headers: dict[str, str]) -> web.Response:
    headers = {"Cache-Control": "no-store", **headers}
    if wants_html(request):
        return web.Response(
            status=problem.status, text=problem_page(problem), content_type="text/html", headers=headers
        )
    return web.Response(status=problem.status, body=problem.body(), content_type=CONTENT_TYPE, headers=headers)


def _sentence_of(error: web.HTTPException, request: web.Request) -> str:
    match error:
        case web.HTTPNotFound():
            return f"There is no '{request.path}' here: /docs lists what there is"
        case web.HTTPMethodNotAllowed():
            return f"{request.method} is not possible here, only {', '.join(sorted(error.allowed_methods))}"
        case web.HTTPRequestEntityTooLarge():
            return f"The body is larger than {request.client_max_size:,} bytes"
        case _:
            return error.text or error.reason
