"""The pictures that a task starts from."""

from __future__ import annotations

import asyncio

from PIL import Image

from sd_common.blob_store import BlobStore
from sd_common.blob_urls import blob_id_of
from sd_common.errors import BlobNotFound, PictureError
from sd_common.parameters import AnyParameters
from sd_common.pictures import PictureSettings, open_picture
from sd_worker.errors import InputRejected


class InputPictures:
    """Fetches and decodes blobs."""

    def __init__(self, blobs: BlobStore, base_url: str, limits: PictureSettings) -> None:
        self._blobs = blobs
        self._base_url = base_url
        self._limits = limits

    async def fetch(self, parameters: AnyParameters, field: str) -> Image.Image | None:
        """The picture that a field names; None where this kind of task has no such field.

        Raises `InputRejected`, or `Unavailable` where the store does not answer.
        """
        url = getattr(parameters, field, None)
        if url is None:
            return None
        blob_id = blob_id_of(self._base_url, url)
        if blob_id is None:
            raise InputRejected(f"{field}: must be a blob URL, which begins with {self._base_url}/blob/")
        try:
            blob = await self._blobs.get(blob_id)
            picture = await asyncio.to_thread(open_picture, blob.data, self._limits)
        except (BlobNotFound, PictureError) as error:
            raise InputRejected(f"{field}: {error}") from error
        return picture.image
