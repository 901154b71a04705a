"""Pictures that come as files of a multipart form."""

from __future__ import annotations

from typing import cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from sd_gateway.byte_budget import Share
from sd_gateway.errors import BodyTooLarge, FieldError, InvalidInput, MalformedBody, UnsupportedBody
from sd_gateway.http.bodies import in_time

#: The file of an upload.
BLOB_FIELD = "blob_data"


async def read_upload(request: web.Request, max_bytes: int, share: Share) -> bytes:
    """The file of a multipart form's `blob_data`, whose bytes `share` holds. Raises `UnsupportedBody`, `MalformedBody`,
    `BodyTooLarge`, `InvalidInput`, and what `Share.take` does."""
    if request.content_type != "multipart/form-data":
        raise UnsupportedBody(f"The body must be multipart/form-data, not {request.content_type}")
    try:
        async with in_time():
            return await _read_part(request, max_bytes, share)
    except (HttpProcessingError, ValueError, AssertionError, LookupError, RuntimeError) as error:  # aiohttp's parser
        raise MalformedBody("The multipart body is malformed") from error


async def _read_part(request: web.Request, max_bytes: int, share: Share) -> bytes:
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
            share.take(len(chunk))
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
