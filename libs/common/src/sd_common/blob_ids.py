"""Blob ids: the names of pictures."""

from __future__ import annotations

import re
import secrets

#: What stands in a URL, and in the name of an object of a bucket. Without anchors: it is part of other patterns.
BLOB_ID_PATTERN = r"[A-Za-z0-9_-]{16,64}"


def new_blob_id() -> str:
    """An id nobody can guess (192 bits): whoever knows it may see the picture."""
    return secrets.token_urlsafe(24)


def is_blob_id(text: str) -> bool:
    """Whether `text` has the form of a blob id."""
    return re.fullmatch(BLOB_ID_PATTERN, text) is not None
