"""Names made safe for a NATS subject."""

from __future__ import annotations

import hashlib
import re

_NOT_IN_A_SLUG = re.compile(r"[^A-Za-z0-9_]+")
_MAX_SLUG_CHARS = 40


def key_of_name(name: str) -> str:
    """One subject token for any name: a readable slug, a dash, and 8 hex digits of the name's SHA-256.

    Two names never share a key by their slug alone: `a/b` and `a.b` differ in their digits.
    """
    slug = _NOT_IN_A_SLUG.sub("-", name).strip("-")[:_MAX_SLUG_CHARS]
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
