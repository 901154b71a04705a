"""The synchronous interface: one GET makes a picture and waits for it."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import TypeAdapter

from sd_common.errors import TaskAborted, Unavailable
from sd_common.events import AbortedEvent, FinishedEvent, TaskResult
from sd_common.parameters import AnyParameters, Img2ImgParameters, InpaintParameters, Txt2ImgParameters
from sd_common.subjects import TaskRef
from sd_gateway.http.answers import json_answer
from sd_gateway.http.authentication import authenticate
from sd_gateway.http.inputs import read_query
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.origins import refuse_embedding
from sd_gateway.http.picture_page import picture_page, wants_html
from sd_gateway.parts import PARTS, Parts
from sd_gateway.submit import new_task
from sd_gateway.waiting import TaskEnd

log = structlog.get_logger(__name__)

txt2img_query: TypeAdapter[AnyParameters] = TypeAdapter(Txt2ImgParameters)
img2img_query: TypeAdapter[AnyParameters] = TypeAdapter(Img2ImgParameters)
inpaint_query: TypeAdapter[AnyParameters] = TypeAdapter(InpaintParameters)


async def txt2img(request: web.Request) -> web.Response:
    return await _make_picture(request, txt2img_query)


async def img2img(request: web.Request) -> web.Response:
    return await _make_picture(request, img2img_query)


async def inpaint(request: web.Request) -> web.Response:
    return await _make_picture(request, inpaint_query)


async def _make_picture(request: web.Request, query: TypeAdapter[AnyParameters]) -> web.Response:
    refuse_embedding(request)
    parts = request.app[PARTS]
    identity = await authenticate(request)
    parameters = read_query(request, query)
    ref = new_task(identity)
    with TaskEnd(parts.feed, parts.task_log, ref) as end:
        submitting = asyncio.ensure_future(parts.submitter.submit(ref, parameters))
        try:
            await asyncio.shield(submitting)
            event = await end.wait()
        except asyncio.CancelledError:  # the client has gone
            await asyncio.shield(_abort_submitted(parts, ref, submitting))
            raise
    if isinstance(event, AbortedEvent):
        raise TaskAborted(event)
    return _answer(request, event)


async def _abort_submitted(parts: Parts, ref: TaskRef, submitting: asyncio.Future[None]) -> None:
    await asyncio.wait([submitting])
    if submitting.exception() is None:
        try:
            await parts.aborter.abort(ref)
        except Unavailable:
            log.warning("task_of_a_client_that_left_runs_on", task_id=ref.task_id)


def _answer(request: web.Request, event: FinishedEvent) -> web.Response:
    if wants_html(request):
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        return web.Response(text=picture_page(event.result), content_type="text/html", headers=headers)
    return json_answer(event.result.model_dump_json().encode(), headers={"Vary": "Accept"})


_ANSWERS = {
    200: Answer(
        "The picture's URL and the parameters used; a page that shows both to those who ask for `text/html`",
        TypeAdapter(TaskResult),
    )
}
_DESCRIPTION = (
    "Waits for the picture, so it can be tried in a browser; programs do better with `POST /task`. "
    "Disconnecting aborts the task."
)


def _operation(path: str, handler: Handler, summary: str, query: TypeAdapter[AnyParameters]) -> Operation:
    return Operation(
        "GET",
        path,
        handler,
        tag="pictures",
        summary=summary,
        description=_DESCRIPTION,
        query=query,
        answers=_ANSWERS,
        problems=(409, 422, 429, 500),
        takes_head=False,
    )


OPERATIONS = (
    _operation("/txt2img", txt2img, "A picture from a prompt", txt2img_query),
    _operation("/img2img", img2img, "A picture from a prompt and a picture to start from", img2img_query),
    _operation("/inpaint", inpaint, "A picture painted anew where a mask is white", inpaint_query),
)
