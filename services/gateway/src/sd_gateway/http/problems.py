"""Errors told over HTTP: RFC 9457 problems. The only place where errors become statuses."""

from __future__ import annotations

from http import HTTPStatus

from pydantic import BaseModel, Field

from sd_common.errors import (
    BlobNotFound,
    EndOfLaterVersion,
    QueueFull,
    StoreFull,
    TaskAborted,
    Unavailable,
)
from sd_common.events import AbortCode
from sd_gateway.errors import (
    AccountRefused,
    BodyTooLarge,
    EmbeddingNotAllowed,
    IdempotencyKeyReused,
    InvalidInput,
    MalformedBody,
    NotAuthenticated,
    OriginNotAllowed,
    Overloaded,
    TaskNotFound,
    TaskWithoutEvent,
    TooManyRequests,
    TooManyUnfinishedTasks,
    UnsupportedBody,
)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 3
_RETRY_AFTER_STORE_FULL_S = 60
#: What is told of a defect.
INTERNAL_SENTENCE = "Something went wrong here; the operator's log tells what"

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

    def body(self) -> bytes:
        """As it is sent."""
        return self.model_dump_json(exclude_none=True).encode()


def problem_of(error: Exception) -> tuple[Problem, dict[str, str]] | None:
    """The problem that `error` is to a client, and headers; None for one that is a defect of ours."""
    match error:
        case InvalidInput():
            fields = [ProblemField(field=entry.field, detail=entry.detail) for entry in error.errors]
            return create_problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), errors=fields), {}
        case IdempotencyKeyReused():
            return create_problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)), {}
        case NotAuthenticated():
            return create_problem(HTTPStatus.UNAUTHORIZED, str(error)), {"WWW-Authenticate": "Bearer"}
        case OriginNotAllowed() | EmbeddingNotAllowed():
            return create_problem(HTTPStatus.FORBIDDEN, str(error)), {}
        case AccountRefused():
            headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
            return create_problem(HTTPStatus(error.status), str(error)), headers
        case TaskNotFound() | BlobNotFound():
            return create_problem(HTTPStatus.NOT_FOUND, str(error)), {}
        case TaskAborted():
            status = _STATUS_OF_ABORT[error.event.code]
            return create_problem(status, error.event.reason, code=error.event.code), {}
        case MalformedBody():
            return create_problem(HTTPStatus.BAD_REQUEST, str(error)), {}
        case UnsupportedBody():
            return create_problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(error)), {}
        case BodyTooLarge():
            return create_problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)), {}
        case QueueFull() | TooManyUnfinishedTasks():
            return create_problem(HTTPStatus.TOO_MANY_REQUESTS, str(error)), {"Retry-After": str(RETRY_AFTER_S)}
        case TooManyRequests():
            return create_problem(HTTPStatus.TOO_MANY_REQUESTS, str(error)), {"Retry-After": str(error.retry_after_s)}
        case Unavailable() | EndOfLaterVersion() | TaskWithoutEvent() | Overloaded():
            retry_after_s = _RETRY_AFTER_STORE_FULL_S if isinstance(error, StoreFull) else RETRY_AFTER_S
            return create_problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)), {"Retry-After": str(retry_after_s)}
    return None


def create_problem(
    status: HTTPStatus, detail: str, *, code: str | None = None, errors: list[ProblemField] | None = None
) -> Problem:
    # It may quote a header, in which aiohttp keeps bytes that are no text as lone surrogates.
    text = detail.encode(errors="replace").decode()
    return Problem(title=status.phrase, status=status, detail=text, code=code, errors=errors)
