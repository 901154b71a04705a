"""Store a finished picture."""

from __future__ import annotations

import asyncio

import structlog

from sd_common.blob_store import BlobStore
from sd_common.errors import BlobTaken, Unavailable
from sd_common.subjects import TaskRef
from sd_worker.errors import InputRejected

log = structlog.get_logger(__name__)

#: Waiting is cheaper than making the picture again elsewhere.
_RETRY_FOR_S = 60.0
_FIRST_PAUSE_S = 0.2
_MAX_PAUSE_S = 5.0


async def upload(blobs: BlobStore, blob_id: str, png: bytes, ref: TaskRef) -> None:
    """Store `png` under the id chosen at submission. Raises `InputRejected` where that is another picture's, and
    `Unavailable` when the store stays away for a minute."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _RETRY_FOR_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await blobs.put_made(blob_id, png, "image/png", ref)
            return
        except BlobTaken as error:
            raise InputRejected(f"blob_id: {error}") from error
        except Unavailable:
            if loop.time() + pause_s > deadline:
                raise
            log.warning("upload_retried", pause_s=pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _MAX_PAUSE_S)
