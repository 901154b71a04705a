"""Pictures that a task starts from: checked, and stored as blobs, before the task is queued.

So a job is small, does not change, and a worker needs no way out to the internet: the pictures of other hosts are
fetched here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re

from sd_common.blob_ids import new_blob_id
from sd_common.blob_store import BlobStore
from sd_common.blob_urls import blob_id_of, blob_url
from sd_common.errors import BlobNotFound, PictureError
from sd_common.parameters import AnyParameters
from sd_common.pictures import PictureSettings, open_picture
from sd_gateway.byte_budget import ByteBudget, Share
from sd_gateway.errors import FieldError, InvalidInput
from sd_gateway.remote_pictures import RemotePictures
from sd_gateway.remote_urls import is_remote
from sd_gateway.uninterrupted import uninterrupted

#: RFC 2397, in the base64 form.
_DATA_URL = re.compile(
    r"data:(?:image/[a-z0-9.+-]+)?(?:;[a-z0-9=.+-]+)*;base64,(?P<base64>.*)", re.DOTALL | re.IGNORECASE
)
_FIELDS = ("initial_image", "mask")
#: Pictures decoded at once: each may take a hundred times as much memory as its file.
_MAX_DECODED = 4


class InputPictures:
    """Takes pictures in, for tasks and for uploads."""

    def __init__(
        self, blobs: BlobStore, remote: RemotePictures, budget: ByteBudget, base_url: str, limits: PictureSettings
    ) -> None:
        """`budget` has the bytes of pictures that were fetched, until they are stored."""
        self._blobs = blobs
        self._remote = remote
        self._budget = budget
        self._base_url = base_url
        self._limits = limits
        self._decoding = asyncio.Semaphore(_MAX_DECODED)

    async def stored(self, parameters: AnyParameters, holder: str) -> AnyParameters:
        """`parameters` of `holder` with every picture named by its blob URL.

        Raises `InvalidInput`, with an entry per picture; `TooManyRequests`; `Overloaded`; `Unavailable`.
        """
        urls = {name: getattr(parameters, name) for name in _FIELDS if hasattr(parameters, name)}
        if not urls:
            return parameters
        with self._budget.share(holder) as share:
            results = await asyncio.gather(
                *(self._stored_url(url, holder, share) for url in urls.values()), return_exceptions=True
            )
        errors: list[FieldError] = []
        blob_urls: dict[str, str] = {}
        for name, result in zip(urls, results, strict=True):
            match result:
                case str():
                    blob_urls[name] = result
                case PictureError() | BlobNotFound():
                    errors.append(FieldError(name, str(result)))
                case BaseException():
                    raise result
        if errors:
            raise InvalidInput(errors)
        return parameters.model_copy(update=blob_urls)

    async def store(self, data: bytes) -> str:
        """Store an uploaded picture and return its blob URL. Raises `PictureError` where it is not one."""
        content_type = await self._checked(data)
        blob_id = new_blob_id()
        await self._blobs.put(blob_id, data, content_type)
        return blob_url(self._base_url, blob_id)

    async def _checked(self, data: bytes) -> str:
        """The content type. What it looks like is forgotten."""
        async with self._decoding:
            return (await uninterrupted(asyncio.to_thread(open_picture, data, self._limits))).content_type

    async def _stored_url(self, url: str, holder: str, share: Share) -> str:
        if match := _DATA_URL.fullmatch(url):
            try:
                data = base64.b64decode(match["base64"], validate=True)
            except (binascii.Error, ValueError) as error:
                raise PictureError("The data URL is not valid base64") from error
            return await self.store(data)
        if blob_id := blob_id_of(self._base_url, url):
            await self._blobs.check_exists(blob_id)
            return blob_url(self._base_url, blob_id)
        if url.startswith(("/blob/", f"{self._base_url}/blob/")):
            raise PictureError("This URL of this service names no picture: take one as POST /blob answers it")
        if is_remote(url):
            return await self.store(await self._remote.fetch(url, holder, share.take))
        raise PictureError("Must be a blob URL of this service, an http or https URL, or a `data:image/…;base64,` URL")
