"""Read and check what a request brings. Every wrong field is told, with a sentence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TypeVar, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from sd_common.parameters import MAX_PROMPT_CHARS
from sd_gateway.errors import BodyTooLarge, FieldError, InvalidInput, MalformedBody, UnsupportedBody

T = TypeVar("T")

#: Where a token may stand; no parameter of an operation.
TOKEN_PARAMETER = "token"  # noqa: S105 - a parameter's name
#: The file of an upload.
BLOB_FIELD = "blob_data"
#: Largest body with a name and a password, in bytes: the longest ones, with each character escaped, need 13 KiB.
MAX_CREDENTIALS_BYTES = 16 * 1024
#: Seconds that a body may take to come: the largest does by 1.7 Mbit/s.
MAX_BODY_S = 300.0
#: Fields of a body or a query. No operation has half as many.
MAX_FIELDS = 100
#: Each element of a JSON body but the first of its container comes after a comma: so they bound what parsing costs. The
#: prompts may have some; pictures as data URLs have one each, however large they are.
_MAX_COMMAS = 2 * MAX_PROMPT_CHARS + MAX_FIELDS
#: Wrong fields that are told, and the characters of a name that is.
MAX_ERRORS = 20
_MAX_NAME_CHARS = 64
_KIND_FIELD = "params_type"


def token_of(request: web.Request) -> str | None:
    """The token of a request, from its header or else its query."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.query.get(TOKEN_PARAMETER) or None


def read_query(request: web.Request, adapter: TypeAdapter[T]) -> T:
    """The query's parameters. Raises `InvalidInput`."""
    if len(request.query) > MAX_FIELDS:
        raise _too_many("query")
    parameters: dict[str, str] = {}
    for name, value in request.query.items():
        if name == TOKEN_PARAMETER:
            continue
        if name in parameters:
            raise InvalidInput([FieldError(name, "Given more than once")])
        parameters[name] = value
    return checked(lambda: adapter.validate_strings(parameters, extra="forbid"))


def read_header(request: web.Request, name: str, adapter: TypeAdapter[T]) -> T | None:
    """The header's value, None where there is none. Raises `InvalidInput`."""
    values = request.headers.getall(name, [])
    if not values:
        return None
    if len(values) > 1:
        raise InvalidInput([FieldError(name, "Given more than once")])
    try:
        return adapter.validate_python(values[0])
    except ValidationError as error:
        raise InvalidInput([FieldError(name, str(entry["msg"])) for entry in error.errors()]) from error


async def read_json(request: web.Request, adapter: TypeAdapter[T], max_bytes: int | None = None) -> T:
    """The JSON body. Raises `UnsupportedBody`, `MalformedBody`, `InvalidInput`, and `BodyTooLarge` beyond `max_bytes`
    or the limit of all bodies."""
    if request.content_type not in ("application/json", "application/octet-stream"):  # the latter: no type given
        raise UnsupportedBody(f"The body must be application/json, not {request.content_type}")
    async with _limited(request, max_bytes) as limited:
        body = await limited.read()
    _check_num_fields(body)
    return checked(lambda: adapter.validate_json(body, extra="forbid"))


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
    return checked(lambda: adapter.validate_python(form))


def _check_num_fields(body: bytes) -> None:
    """Before each field that is unknown becomes an error, which costs 30 µs and a hundred bytes."""
    num_commas = body.count(b",")
    if num_commas > _MAX_COMMAS:
        raise _too_many("body")
    if num_commas >= MAX_FIELDS:
        try:
            fields = from_json(body)
        except ValueError:
            return  # no JSON: whoever reads it tells where
        if isinstance(fields, dict) and len(fields) > MAX_FIELDS:
            raise _too_many("body")


def _too_many(what: str) -> InvalidInput:
    return InvalidInput([FieldError(what, f"Has more than {MAX_FIELDS} fields, which no operation takes")])


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """A body is read inside. Raises `MalformedBody` where it takes too long to come."""
    try:
        async with asyncio.timeout(MAX_BODY_S):
            yield
    except TimeoutError as error:
        raise MalformedBody(f"The body did not come within {MAX_BODY_S:g} s") from error


@contextlib.asynccontextmanager
async def _limited(request: web.Request, max_bytes: int | None) -> AsyncIterator[web.Request]:
    """The request, whose body is read to a limit and no further."""
    limit = min(max_bytes or request.client_max_size, request.client_max_size)
    try:
        async with _in_time():
            yield request.clone(client_max_size=limit)
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyTooLarge(f"The body is larger than {limit:,} bytes") from error


async def read_upload(request: web.Request, max_bytes: int) -> bytes:
    """The file of a multipart form's `blob_data`. Raises `UnsupportedBody`, `MalformedBody`, `BodyTooLarge`,
    `InvalidInput`."""
    if request.content_type != "multipart/form-data":
        raise UnsupportedBody(f"The body must be multipart/form-data, not {request.content_type}")
    try:
        async with _in_time():
            return await _read_part(request, max_bytes)
    except (HttpProcessingError, ValueError, AssertionError, LookupError, RuntimeError) as error:  # aiohttp's parser
        raise MalformedBody("The multipart body is malformed") from error


async def _read_part(request: web.Request, max_bytes: int) -> bytes:
    content = _CountedContent(request.content, request.client_max_size)
    reader = MultipartReader(request.headers, cast("StreamReader", content), client_max_size=request.client_max_size)
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name != BLOB_FIELD:
            continue
        data = bytearray()
        while chunk := await part.read_chunk():
            data += chunk
            if len(data) > max_bytes:
                raise BodyTooLarge(f"The picture is larger than {max_bytes:,} bytes")
        return bytes(data)
    raise InvalidInput([FieldError(BLOB_FIELD, "Needed, but the form has no such file")])


class _CountedContent:
    """A body as aiohttp's parser of forms reads it, and no further than to `max_bytes`: that one passes over what
    stands before the parts and in those that nobody asks for, however much it is."""

    def __init__(self, content: StreamReader, max_bytes: int) -> None:
        self._content = content
        self._max_bytes = max_bytes
        self._num_bytes = 0

    async def read(self, num_bytes: int) -> bytes:
        return self._counted(await self._content.read(num_bytes))

    async def readline(self, *, max_line_length: int | None = None) -> bytes:
        return self._counted(await self._content.readline(max_line_length=max_line_length))

    def at_eof(self) -> bool:
        return self._content.at_eof()

    def unread_data(self, data: bytes) -> None:
        self._num_bytes -= len(data)
        self._content.unread_data(data)

    def _counted(self, data: bytes) -> bytes:
        self._num_bytes += len(data)
        if self._num_bytes > self._max_bytes:
            raise BodyTooLarge(f"The body is larger than {self._max_bytes:,} bytes")
        return data


def checked(validate: Callable[[], T]) -> T:
    """What `validate` returns; pydantic's errors become `InvalidInput`, or `MalformedBody` where it is not JSON."""
    try:
        return validate()
    except ValidationError as error:
        entries = error.errors(include_url=False, include_input=False, include_context=False)
        if any(entry["type"] == "json_invalid" for entry in entries):
            raise MalformedBody(f"The body is not JSON: {entries[0]['msg'].removeprefix('Invalid JSON: ')}") from error
        told = entries[:MAX_ERRORS]
        fields = [FieldError(_field(entry["type"], entry["loc"]), _sentence(entry["msg"])) for entry in told]
        raise InvalidInput(fields, len(entries) - len(told)) from error


def _sentence(message: str) -> str:
    """As pydantic has it, which counts a password in items."""
    return message.replace("items after validation", "characters")


def _field(error_type: str, loc: tuple[int | str, ...]) -> str:
    """`steps`; pydantic puts the kind of task that was recognised before it, and names no field for an unknown kind."""
    if error_type in ("union_tag_invalid", "union_tag_not_found"):
        return _KIND_FIELD
    named = [str(part) for part in loc]
    if len(named) > 1 and named[0] in ("txt2img", "img2img", "inpaint"):
        named = named[1:]
    name = ".".join(named) or "body"
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}…"
