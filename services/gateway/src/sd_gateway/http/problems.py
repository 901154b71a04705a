"""Errors told over HTTP: RFC 9457 `application/problem+json`. The only place where errors become statuses."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web
from pydantic import BaseModel, Field

from sd_common.errors import BlobNotFound, PictureError, QueueFull, SubjectError, Unavailable
from sd_common.events import AbortCode
from sd_gateway.errors import (
    AccountRefused,
    BodyTooLarge,
    GatewayError,
    InvalidInput,
    MalformedBody,
    NotAuthenticated,
    TaskAborted,
    TaskNotFound,
    UnsupportedBody,
)

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/problem+json"
_RETRY_AFTER_S = 3

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: The status of a request that waited for a task which was aborted.
_STATUS_OF_ABORT: dict[AbortCode, HTTPStatus] = {
    "cancelled": HTTPStatus.CONFLICT,
    "invalid_input": HTTPStatus.UNPROCESSABLE_ENTITY,
    "model_unavailable": HTTPStatus.UNPROCESSABLE_ENTITY,
    "out_of_memory": HTTPStatus.UNPROCESSABLE_ENTITY,
    "attempts_exhausted": HTTPStatus.INTERNAL_SERVER_ERROR,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
}


class ProblemField(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="The field's name.")
    detail: str


class Problem(BaseModel):
    """An error, after RFC 9457."""

    title: str = Field(description="The status in words.")
    status: int
    detail: str = Field(description="A sentence that says what is wrong, and what to do where something can be done.")
    code: str | None = Field(default=None, description="Why a task was aborted, for programs.")
    errors: list[ProblemField] | None = Field(default=None, description="One entry for every wrong field.")


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]] | None:
    """The problem that `error` is to a client, and headers; None for one that is a defect of ours."""
    match error:
        case InvalidInput():
            fields = [ProblemField(field=entry.field, detail=entry.detail) for entry in error.errors]
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=fields), {}
        case PictureError() | SubjectError():
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)), {}
        case NotAuthenticated():
            return _problem(HTTPStatus.UNAUTHORIZED, str(error)), {"WWW-Authenticate": "Bearer"}
        case AccountRefused():
            headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
            return _problem(HTTPStatus(error.status), str(error)), headers
        case TaskNotFound() | BlobNotFound():
            return _problem(HTTPStatus.NOT_FOUND, str(error)), {}
        case TaskAborted():
            status = _STATUS_OF_ABORT[error.event.code]
            return _problem(status, error.event.reason, code=error.event.code), {}
        case MalformedBody():
            return _problem(HTTPStatus.BAD_REQUEST, str(error)), {}
        case UnsupportedBody():
            return _problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error)), {}
        case BodyTooLarge():
            return _problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)), {}
        case QueueFull():
            return _problem(HTTPStatus.TOO_MANY_REQUESTS, str(error)), {"Retry-After": str(_RETRY_AFTER_S)}
        case Unavailable():
            return _problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)), {"Retry-After": str(_RETRY_AFTER_S)}
        case GatewayError():
            return _problem(HTTPStatus.BAD_REQUEST, str(error)), {}
    return None


def problem_response(problem: Problem, headers: dict[str, str]) -> web.Response:
    """The problem as JSON."""
    body = problem.model_dump_json(exclude_none=True).encode()
    return web.Response(status=problem.status, body=body, content_type=CONTENT_TYPE, headers=headers)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as problems, and log one line per request."""
    started = time.perf_counter()
    response = await _answer(request, handler)
    resource = request.match_info.route.resource
    log.info(
        "request",
        method=request.method,
        route=resource.canonical if resource else None,
        status=response.status,
        ms=round(1000 * (time.perf_counter() - started), 1),
    )
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return problem_response(_problem(HTTPStatus(error.status), _sentence_of(error, request)), headers)
    except Exception as error:
        if (told := problem_of(error)) is not None:
            return problem_response(*told)
        log.exception("request_failed")
        detail = "Something went wrong here; the operator's log tells what"
        return problem_response(_problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail), {})


def _problem(
    status: HTTPStatus, detail: str, *, code: str | None = None, errors: list[ProblemField] | None = None
) -> Problem:
    return Problem(title=status.phrase, status=status, detail=detail, code=code, errors=errors)


def _sentence_of(error: web.HTTPException, request: web.Request) -> str:
    match error:
        case web.HTTPNotFound():
            return f"There is no '{request.path}' here: /docs lists what there is"
        case web.HTTPMethodNotAllowed():
            return f"{request.method} is not possible here, only {', '.join(sorted(error.allowed_methods))}"
        case web.HTTPRequestEntityTooLarge():
            return f"The body is larger than {request.client_max_size:,} bytes"
        case _:
            return error.reason
