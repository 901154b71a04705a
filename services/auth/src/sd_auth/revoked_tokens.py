"""Revoked tokens in the KV bucket `revoked_tokens`. Gateways read it, and are told of every entry (ADR 23)."""

from __future__ import annotations

import contextlib

from nats.js.errors import KeyWrongLastSequenceError

from sd_common.auth_messages import RevokedToken
from sd_common.buckets import Bucket
from sd_common.messages import now

#: Seconds for which an entry outlives its token: the clocks of NATS and of gateways may differ.
_OUTLIVES_S = 60


class RevokedTokens:
    """All revoked tokens. Every call raises `Unavailable` where the bucket does not answer."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def add(self, revoked: RevokedToken) -> None:
        """Store it; no error where it was stored before."""
        value = revoked.model_dump_json().encode()
        life_s = max(0.0, (revoked.expires_at - now()).total_seconds()) + _OUTLIVES_S
        with contextlib.suppress(KeyWrongLastSequenceError):
            await self._bucket.answered(lambda bucket: bucket.create(revoked.token_id, value, msg_ttl=life_s))
