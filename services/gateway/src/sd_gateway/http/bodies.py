"""Bodies of JSON and of HTML forms: read within limits, and checked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

from aiohttp import web
from pydantic import TypeAdapter
from pydantic_core import from_json

from sd_common.parameters import MAX_PROMPT_CHARS
from sd_gateway.byte_budget import Share
from sd_gateway.errors import BodyTooLarge, MalformedBody, UnsupportedBody
from sd_gateway.http.validation import MAX_FIELDS, checked, too_many_fields

T = TypeVar("T")

#: Largest body with a name and a password, in bytes: the longest ones, with each character escaped, need 13 KiB.
MAX_CREDENTIALS_BYTES = 16 * 1024
#: Seconds that a body may take to come: the largest does by 1.7 Mbit/s.
MAX_BODY_S = 300.0
#: Each element of a JSON body but the first of its container comes after a comma: so they bound what parsing costs. The
#: prompts may have some; pictures as data URLs have one each, however large they are.
_MAX_COMMAS = 2 * MAX_PROMPT_CHARS + MAX_FIELDS


async def read_json(
    request: web.Request, adapter: TypeAdapter[T], max_bytes: int | None = None, share: Share | None = None
) -> T:
    """The JSON body, whose bytes `share` holds: needed for those that may be large. Raises `UnsupportedBody`,
    `MalformedBody`, `InvalidInput`, what `Share.take` does, and `BodyTooLarge` beyond `max_bytes` or the limit of all
    bodies."""
    if request.content_type not in ("application/json", "application/octet-stream"):  # the latter: no type given
        raise UnsupportedBody(f"The body must be application/json, not {request.content_type}")
    async with in_time():
        body = await _read(request, _limit(request, max_bytes), share)
    _check_num_fields(body)
    return checked(adapter, lambda: adapter.validate_json(body, extra="forbid"))


async def read_form(request: web.Request, adapter: TypeAdapter[T], max_bytes: int | None = None) -> T:
    """The body of an HTML form, which OAuth2 asks for. Raises as `read_json`."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise UnsupportedBody(f"The body must be application/x-www-form-urlencoded, not {request.content_type}")
    try:
        async with _limited(request, max_bytes) as limited:
            fields = await limited.post()
    except (ValueError, LookupError) as error:  # not in the character set that it says, or there is none of that name
        raise MalformedBody("The form is malformed") from error
    form = {name: value for name, value in fields.items() if isinstance(value, str)}
    return checked(adapter, lambda: adapter.validate_python(form))


@contextlib.asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """A body is read inside. Raises `MalformedBody` where it takes too long to come."""
    try:
        async with asyncio.timeout(MAX_BODY_S):
            yield
    except TimeoutError as error:
        raise MalformedBody(f"The body did not come within {MAX_BODY_S:g} s") from error


async def _read(request: web.Request, limit: int, share: Share | None) -> bytearray:
    """The body. Its bytes count as they come: what a client says of its size may never come, and costs nothing."""
    body = bytearray()
    while piece := await request.content.readany():
        body += piece
        if len(body) > limit:
            raise _too_large(limit)
        if share is not None:
            share.take(len(piece))
    return body


def _limit(request: web.Request, max_bytes: int | None) -> int:
    return min(max_bytes or request.client_max_size, request.client_max_size)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit:,} bytes")


@contextlib.asynccontextmanager
async def _limited(request: web.Request, max_bytes: int | None) -> AsyncIterator[web.Request]:
    """The request, whose body is read to a limit and no further."""
    limit = _limit(request, max_bytes)
    try:
        async with in_time():
            yield request.clone(client_max_size=limit)
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(limit) from error


def _check_num_fields(body: bytearray) -> None:
    """Before each field that is unknown becomes an error, which costs 30 µs and a hundred bytes."""
    num_commas = body.count(b",")
    if num_commas > _MAX_COMMAS:
        raise too_many_fields("body")
    if num_commas >= MAX_FIELDS:
        try:
            fields = from_json(body)
        except ValueError:
            return  # no JSON: whoever reads it tells where
        if isinstance(fields, dict) and len(fields) > MAX_FIELDS:
            raise too_many_fields("body")
