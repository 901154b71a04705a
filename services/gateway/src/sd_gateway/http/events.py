"""The websocket of a session's events."""

from __future__ import annotations

from typing import Annotated

from aiohttp import WSCloseCode, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sd_common.errors import Unavailable
from sd_common.events import ProgressEvent, StoredEvent
from sd_gateway.errors import InvalidInput, NotAuthenticated
from sd_gateway.http.inputs import read_query, token_of
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.parts import PARTS


class EventsQuery(BaseModel):
    """What a websocket client may ask for."""

    model_config = ConfigDict(extra="forbid")

    progress: bool = Field(default=False, description="Tell the progress of running tasks too (events not stored).")


events_query: TypeAdapter[EventsQuery] = TypeAdapter(EventsQuery)


async def events(request: web.Request) -> web.WebSocketResponse:
    websockets = request.app[PARTS].websockets
    token = token_of(request)
    # Browsers tell a page nothing of a refused handshake, so refusals come as close codes.
    socket = await websockets.accept(request)
    try:
        query = read_query(request, events_query)
        if token is None:
            raise NotAuthenticated("A token is needed: /events?token=<token>")
        verified = await request.app[PARTS].authenticator.verify(token)
    except (NotAuthenticated, InvalidInput) as error:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error).encode()[:120])
    except Unavailable as error:
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=str(error).encode()[:120])
    else:
        await websockets.serve(request, socket, verified, progress=query.progress)
    return socket


OPERATIONS = (
    Operation(
        "GET",
        "/events",
        events,
        tag="events",
        summary="The events of a session, over a websocket",
        description="Each message is one event in JSON: those of all tasks submitted with the same token, as they are "
        "stored, with their `sequence`. Without a valid token the websocket is closed with code 1008, "
        "and so it is once the token has expired or was revoked.",
        query=events_query,
        answers={
            101: Answer(
                "The websocket; its messages are as described by the schema",
                TypeAdapter(Annotated[StoredEvent | ProgressEvent, Field()]),
            )
        },
        problems=(400,),
        token="query",  # noqa: S106 - a way to pass tokens
    ),
)
