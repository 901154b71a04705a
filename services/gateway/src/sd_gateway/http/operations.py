"""An operation of the REST API: its handler, together with what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import TypeAdapter

from sd_gateway.parts import PARTS

BodyKind = Literal["application/json", "application/x-www-form-urlencoded", "multipart/form-data"]


@dataclass(frozen=True)
class Answer:
    """A successful answer."""

    description: str
    schema: TypeAdapter[Any] | None = None
    content_types: tuple[str, ...] = ("application/json",)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """A route. The adapters given here are those the handler reads its input with."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    #: Statuses of problems, besides 403 and 503, and where a token is needed 401 and 429.
    problems: tuple[int, ...] = ()
    description: str = ""
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    query: TypeAdapter[Any] | None = None
    headers: Mapping[str, TypeAdapter[Any]] = field(default_factory=dict)
    body: TypeAdapter[Any] | None = None
    body_kind: BodyKind = "application/json"
    #: Whether it is refused within a second while there is no connection to NATS. What was begun before tries for
    #: longer.
    needs_nats: bool = True
    #: Whether it counts for `REQUEST_RATE`, where a token is needed.
    counts_for_rate: bool = True
    #: The replaced API takes passwords in the query.
    password_in_query: bool = False
    #: As a header or in the query. "bearer": without a valid one the request is refused; "websocket": its websocket is
    #: closed.
    token: Literal["bearer", "websocket"] | None = "bearer"  # noqa: S105 - a way to pass tokens
    #: Of a GET: whether it only tells something, so that HEAD is answered too, as it is without the body.
    takes_head: bool = True

    @property
    def operation_id(self) -> str:
        return self.handler.__name__


def add_operations(app: web.Application, operations: tuple[Operation, ...]) -> None:
    """Route requests to the operations' handlers."""
    for operation in operations:
        handler = _once_connected(operation.handler) if operation.needs_nats else operation.handler
        app.router.add_route(operation.method, operation.path, handler)
        if operation.method == hdrs.METH_GET and operation.takes_head:
            app.router.add_route(hdrs.METH_HEAD, operation.path, handler)


def _once_connected(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        await request.app[PARTS].nats.check_connected()
        return await handler(request)

    return handle
