"""The list of a user's tasks."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, WithJsonSchema
from pydantic_core import PydanticCustomError

from sd_gateway.errors import NotAuthenticated
from sd_gateway.http.answers import json_answer
from sd_gateway.http.authentication import authenticate
from sd_gateway.http.inputs import read_query, token_of
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.shown_events import ShownEvent
from sd_gateway.parts import PARTS
from sd_gateway.task_pages import StateName


def cursor_of(sequence: int) -> str:
    """The cursor of a page that goes on before this sequence."""
    return base64.urlsafe_b64encode(str(sequence).encode()).decode().rstrip("=")


def _sequence_of(cursor: Any) -> int:
    try:
        sequence = int(base64.urlsafe_b64decode(f"{cursor}=="))
    except (ValueError, binascii.Error):
        sequence = 0
    if not 0 < sequence < 2**63 or cursor_of(sequence) != cursor:
        raise PydanticCustomError(
            "cursor", "Not a `next_cursor` of this API: leave it out to begin with the newest task"
        )
    return sequence


Cursor = Annotated[int, BeforeValidator(_sequence_of), WithJsonSchema({"type": "string"})]


class TasksQuery(BaseModel):
    """Which tasks are listed."""

    model_config = ConfigDict(extra="forbid")

    state: StateName | None = Field(default=None, description="Only tasks whose last event is of this type.")
    limit: int = Field(default=20, ge=1, le=100, description="The most tasks of a page.")
    cursor: Cursor | None = Field(default=None, description="The `next_cursor` of the page before.")


class TaskList(BaseModel):
    """A page of the user's tasks."""

    tasks: list[ShownEvent] = Field(description="The last event of each task, the newest task first.")
    next_cursor: str | None = Field(description="The `cursor` of the next page; null where there is none.")


tasks_query: TypeAdapter[TasksQuery] = TypeAdapter(TasksQuery)


async def list_tasks(request: web.Request) -> web.Response:
    if token_of(request) is None:
        raise NotAuthenticated("A token is needed: requests without one share a session, whose tasks are not listed")
    identity = await authenticate(request)
    query = read_query(request, tasks_query)
    page = await request.app[PARTS].task_pages.page(identity, before=query.cursor, limit=query.limit, state=query.state)
    shown = b",".join(event.shown() for event in page.tasks)
    next_cursor = b"null" if page.next_before is None else b'"%s"' % cursor_of(page.next_before).encode()
    body = b'{"tasks":[%s],"next_cursor":%s}' % (shown, next_cursor)
    return json_answer(body)


OPERATIONS = (
    Operation(
        "GET",
        "/tasks",
        list_tasks,
        tag="tasks",
        summary="The user's tasks, newest first",
        description="Of all sessions of the user (of the public user, those of the token's session), for as long as "
        "their events are stored. Tasks that are submitted meanwhile shift no page. A page may have fewer tasks than "
        "`limit`, or none, and still a `next_cursor`: ask on until it is null.",
        query=tasks_query,
        answers={200: Answer("A page of tasks", TypeAdapter(TaskList))},
        problems=(422,),
    ),
)
