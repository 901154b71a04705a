"""Blob URLs: where a client finds a picture."""

from __future__ import annotations

import re

from sd_common.blob_ids import BLOB_ID_PATTERN

_PATH = re.compile(rf"/blob/({BLOB_ID_PATTERN})")


def blob_url(base_url: str, blob_id: str) -> str:
    """The URL of a blob of the service at `base_url`."""
    return f"{base_url.rstrip('/')}/blob/{blob_id}"


def blob_id_of(base_url: str, url: str) -> str | None:
    """The blob that `url` names, or None where it is not a blob URL of the service at `base_url`.

    A bare path, `/blob/<id>`, is one as well: it holds whatever host name the client uses.
    """
    match = _PATH.fullmatch(url.removeprefix(base_url.rstrip("/")))
    return match.group(1) if match else None
