"""The websocket of a session's events."""

from __future__ import annotations

from typing import Annotated

from aiohttp import WSCloseCode, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sd_common.errors import Unavailable
from sd_common.events import ProgressEvent
from sd_gateway.errors import FieldError, InvalidInput, NotAuthenticated, TooManyRequests
from sd_gateway.event_feed import EventFeed
from sd_gateway.http.inputs import read_query, token_of
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.shown_events import ShownEvent
from sd_gateway.parts import PARTS


class EventsQuery(BaseModel):
    """What a websocket client may ask for."""

    model_config = ConfigDict(extra="forbid")

    since: int | None = Field(
        default=None,
        ge=0,
        description="The last sequence that the client has: what was stored after it comes first, then what happens. "
        "0 begins with all that is stored. Without it, only what happens from now on is sent.",
    )
    progress: bool = Field(default=False, description="Tell the progress of running tasks too (events not stored).")


events_query: TypeAdapter[EventsQuery] = TypeAdapter(EventsQuery)


async def events(request: web.Request) -> web.WebSocketResponse:
    parts = request.app[PARTS]
    try:
        query = read_query(request, events_query)
        token = token_of(request)
        if token is None:
            raise NotAuthenticated("A token is needed: /events?token=<token>")
        verified = await parts.authenticator.verify(token)
        parts.requests_of_holder.use(verified.identity.holder)
        await _check_since(parts.feed, query.since)
    except (NotAuthenticated, InvalidInput) as error:
        return await parts.websockets.refuse(request, WSCloseCode.POLICY_VIOLATION, "refused", str(error))
    except TooManyRequests as error:
        return await parts.websockets.refuse(request, WSCloseCode.TRY_AGAIN_LATER, "too_many", str(error))
    except Unavailable as error:
        return await parts.websockets.refuse(request, WSCloseCode.TRY_AGAIN_LATER, "part_away", str(error))
    return await parts.websockets.serve(request, verified, since=query.since, progress=query.progress)


async def _check_since(feed: EventFeed, since: int | None) -> None:
    if not feed.is_started:
        raise Unavailable("The event feed")
    if since is not None and not await feed.has_come_to(since):
        raise InvalidInput([FieldError("since", "No event has this sequence yet. since=0 gives all that is stored")])


OPERATIONS = (
    Operation(
        "GET",
        "/events",
        events,
        tag="events",
        needs_nats=False,
        summary="The events of a session, over a websocket",
        description="The token may come in the query, since browsers send no headers of a page with a websocket. "
        "Each message is one event in JSON: those of all tasks submitted with the same token, as they are "
        "stored, with their `sequence`. A client that was disconnected goes on with `since=<the last sequence that it "
        "has>`, at this gateway or another: it gets every stored event of the session once and in order, for as long "
        "as they are stored. Events of the type `progress` have no `sequence`, and may be missed. "
        "Close codes: 1008 without a valid token, once the token has expired or was revoked, or with a wrong query, "
        "1013 when a part is missing, when the client is too slow, or when its user has too many websockets or sends "
        "too many requests, 1011 when the gateway failed, 1001 when it stops; the reason says what to do.",
        query=events_query,
        answers={
            101: Answer(
                "The websocket; its messages are as described by the schema",
                TypeAdapter(Annotated[ShownEvent | ProgressEvent, Field()]),
            )
        },
        problems=(400,),
        token="websocket",  # noqa: S106 - a way to pass tokens
        takes_head=False,
    ),
)
