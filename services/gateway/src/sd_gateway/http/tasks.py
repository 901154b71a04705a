"""The asynchronous interface: submit, follow and abort tasks."""

from __future__ import annotations

import json
from typing import Annotated, Any

from aiohttp import web
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from sd_common.errors import SubjectError
from sd_common.events import PendingEvent
from sd_common.logged_event import LoggedEvent
from sd_common.parameters import AnyParameters, TaskParameters
from sd_common.subjects import TaskRef
from sd_gateway.errors import TaskNotFound, TaskWithoutEvent
from sd_gateway.http.answers import json_answer
from sd_gateway.http.authentication import authenticate
from sd_gateway.http.bodies import read_json
from sd_gateway.http.client_address import client_address
from sd_gateway.http.inputs import read_header
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.shown_events import (
    ShownAbortedEvent,
    ShownFinishedEvent,
    ShownPendingEvent,
    ShownStartedEvent,
)
from sd_gateway.parts import PARTS
from sd_gateway.submit import new_task

#: Of an `Idempotency-Key`.
MAX_KEY_CHARS = 255


class PendingTask(ShownPendingEvent):
    """The task is queued."""

    position: int | None = Field(
        ge=1,
        description="How many tasks of its model are taken up to it and with it: 1 is next. Users have turns, so that "
        "tasks that come later may come before it. null where it cannot be told.",
    )


TaskState = Annotated[
    PendingTask | ShownStartedEvent | ShownFinishedEvent | ShownAbortedEvent,
    Field(discriminator="event_type"),
]


def infer_params_type(body: Any) -> Any:
    """Bodies of the replaced API may leave `params_type` out: the pictures they give then tell the kind."""
    if isinstance(body, dict) and "params_type" not in body:
        kind = "inpaint" if "mask" in body else "img2img" if "initial_image" in body else "txt2img"
        return {"params_type": kind, **body}
    return body


task_body: TypeAdapter[AnyParameters] = TypeAdapter(Annotated[TaskParameters, BeforeValidator(infer_params_type)])
task_id_adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(description="Names the task from now on.")])


def check_idempotency_key(key: str) -> str:
    if not (1 <= len(key) <= MAX_KEY_CHARS and key.isprintable()):
        raise PydanticCustomError("idempotency_key", f"Must be 1 to {MAX_KEY_CHARS} printable characters")
    return key


IDEMPOTENCY_KEY = "Idempotency-Key"
idempotency_key: TypeAdapter[str] = TypeAdapter(
    Annotated[
        str,
        Field(
            description="Chosen by the client, such as a UUID. The same key with the same body names the same task, "
            "however often and at whichever gateway it is sent; with another body it is refused with 422.",
            json_schema_extra={"minLength": 1, "maxLength": MAX_KEY_CHARS},
        ),
        AfterValidator(check_idempotency_key),
    ]
)


async def create_task(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    identity = await authenticate(request)
    key = read_header(request, IDEMPOTENCY_KEY, idempotency_key)
    with parts.body_bytes.share(identity.holder, client_address(request)) as share:
        parameters = await read_json(request, task_body, share=share)
        if key is None:
            ref = new_task(identity)
            await parts.submitter.submit(ref, parameters)
        else:
            ref = await parts.idempotent_submitter.submit(identity, key, parameters)
    return web.json_response(ref.task_id, headers={"Location": f"/task/{ref.task_id}"})


async def get_task(request: web.Request) -> web.Response:
    ref, last = await _find_task(request)
    if last is None:
        raise TaskWithoutEvent(ref.task_id)
    body = last.shown()
    if (job_sequence := _job_sequence(last)) is not None:
        position = await request.app[PARTS].queue_positions.of(job_sequence)
        body = b'{"position":%s,%s' % (json.dumps(position).encode(), body[1:])
    return json_answer(body)


def _job_sequence(last: LoggedEvent) -> int | None:
    """The job of a pending task."""
    event = last.known_event
    return event.job_sequence if isinstance(event, PendingEvent) else None


async def delete_task(request: web.Request) -> web.Response:
    ref, _ = await _find_task(request)
    await request.app[PARTS].aborter.abort(ref)
    return web.Response(status=204)


async def _find_task(request: web.Request) -> tuple[TaskRef, LoggedEvent | None]:
    """The user's task of the path, and its last event.

    None where it has not ended and the log has no event of it: NATS went away, or was full, between its job and its
    first event, or these have aged out. Raises `TaskNotFound`, `Unavailable`.
    """
    identity = await authenticate(request)
    parts, task_id = request.app[PARTS], request.match_info["task_id"]
    try:
        last = await parts.task_log.last_of_user(identity.user, task_id)
    except SubjectError:  # no task is called so
        raise TaskNotFound(task_id) from None
    if last is not None:
        return last.ref, last
    if (ref := await parts.unfinished_tasks.find(identity.user, task_id)) is not None:
        return ref, None
    raise TaskNotFound(task_id)


_TASK_ID = {"task_id": "What `POST /task` answered."}

OPERATIONS = (
    Operation(
        "POST",
        "/task",
        create_task,
        tag="tasks",
        summary="Submit a task",
        description="The recommended interface: the answer comes at once, the task is followed by "
        "`GET /task/{task_id}` or the websocket `/events`. "
        "A task whose id was answered ends in exactly one `finished` or `aborted` event.",
        headers={IDEMPOTENCY_KEY: idempotency_key},
        body=task_body,
        answers={200: Answer("The task's id", task_id_adapter, headers={"Location": "Where the task is followed."})},
        problems=(400, 413, 415, 422, 429),
    ),
    Operation(
        "GET",
        "/task/{task_id}",
        get_task,
        tag="tasks",
        summary="The last event of a task",
        description="That of a queued task tells its `position` in the queue too.",
        path_parameters=_TASK_ID,
        answers={200: Answer("The last event", TypeAdapter(TaskState))},
        problems=(404,),
    ),
    Operation(
        "DELETE",
        "/task/{task_id}",
        delete_task,
        tag="tasks",
        summary="Abort a task",
        description="A queued task is aborted at once, a running one at its next step. No error where it has ended.",
        path_parameters=_TASK_ID,
        answers={204: Answer("The task has ended", content_types=())},
        problems=(404,),
    ),
)
