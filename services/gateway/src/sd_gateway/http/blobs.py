"""Pictures, in and out."""

from __future__ import annotations

from typing import Annotated

from aiohttp import ETag, hdrs, web
from pydantic import Field, TypeAdapter

from sd_common.blob_ids import is_blob_id
from sd_common.blob_store import Blob, BlobHead
from sd_common.errors import BlobNotFound, PictureError
from sd_common.pictures import CONTENT_TYPES, content_type_of
from sd_gateway.errors import FieldError, InvalidInput
from sd_gateway.http.authentication import authenticate
from sd_gateway.http.client_address import client_address
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.security_headers import CONTENT_SECURITY_POLICY
from sd_gateway.http.sending import send
from sd_gateway.http.uploads import BLOB_FIELD, read_upload
from sd_gateway.parts import PARTS
from sd_gateway.uninterrupted import uninterrupted

_YEAR_S = 365 * 24 * 3600
#: Opened by itself, a blob can show a picture and do nothing else. Browsers put it into a page with styles of theirs.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
_NO_PICTURE = "application/octet-stream"
#: In `If-None-Match`.
_ANY_ETAG = "*"

blob_url_adapter: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(description="The picture's URL.")])


async def post_blob(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    identity = await authenticate(request)
    with parts.body_bytes.share(identity.holder, client_address(request)) as share:
        data = await read_upload(request, parts.settings.max_upload_bytes, share)
        try:
            url = await parts.input_pictures.store(data)
        except PictureError as error:
            raise InvalidInput([FieldError(BLOB_FIELD, str(error))]) from error
    return web.json_response(url, headers={"Location": url})


async def get_blob(request: web.Request) -> web.StreamResponse:
    parts = request.app[PARTS]
    blob_id = request.match_info["blob_id"]
    if not is_blob_id(blob_id):
        raise BlobNotFound(blob_id)
    known = {tag.value for tag in request.if_none_match or ()}

    def is_known(etag: str) -> bool:
        return etag in known or _ANY_ETAG in known

    if request.method == hdrs.METH_HEAD:
        head = await parts.blobs.head(blob_id)
        return _response(head, is_known(head.etag))
    with parts.answer_bytes.share(client_address(request)) as share:
        # A client that goes away does not end the thread that reads for it: what that holds counts until the call has
        # ended. Where the store takes longer than a call may, the thread, one of few in `S3Client`, reads on uncounted.
        blob = await uninterrupted(parts.blobs.get(blob_id, share.take, is_known))
        response = _response(blob, is_known(blob.etag))
        return await send(request, response) if response.body else response


def _response(blob: Blob | BlobHead, is_known: bool) -> web.Response:
    headers = {"Cache-Control": f"private, max-age={_YEAR_S}, immutable", CONTENT_SECURITY_POLICY: _POLICY}
    if is_known:
        response = web.Response(status=304, headers=headers)
    else:
        # What the bytes are, whatever was said of them when they were stored.
        content_type = content_type_of(blob.data if isinstance(blob, Blob) else blob.beginning) or _NO_PICTURE
        headers[hdrs.CONTENT_DISPOSITION] = "attachment" if content_type == _NO_PICTURE else "inline"
        if isinstance(blob, BlobHead):
            headers[hdrs.CONTENT_LENGTH] = str(blob.num_bytes)
        body = blob.data if isinstance(blob, Blob) else None
        response = web.Response(body=body, content_type=content_type, headers=headers)
    response.etag = ETag(blob.etag)
    return response


OPERATIONS = (
    Operation(
        "POST",
        "/blob",
        post_blob,
        tag="blobs",
        needs_nats=False,
        summary="Upload a picture",
        description=f"For `initial_image` and `mask`. Takes {', '.join(CONTENT_TYPES)}.",
        body_kind="multipart/form-data",
        answers={200: Answer("The picture's URL", blob_url_adapter, headers={"Location": "The same URL."})},
        problems=(400, 413, 415, 422),
    ),
    Operation(
        "GET",
        "/blob/{blob_id}",
        get_blob,
        tag="blobs",
        needs_nats=False,
        summary="A picture",
        description="Needs no token: the id cannot be guessed. A picture never changes.",
        path_parameters={"blob_id": "The end of a blob URL."},
        answers={
            200: Answer("The picture", content_types=tuple(CONTENT_TYPES.values())),
            304: Answer("The picture that `If-None-Match` names", content_types=()),
        },
        problems=(404, 429),
        token=None,
    ),
)
