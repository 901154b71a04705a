"""The revoked tokens, kept in memory: read from the bucket, then told by NATS of each that is stored (ADR 23).

A gateway that cannot know of all of them accepts no token: at its start until it has read them, and after a lost
connection until it has read them again.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import nats.errors
import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common import subjects
from sd_common.auth_messages import LEEWAY_S, RevokedToken
from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient
from sd_common.retries import RETRY_FOR_S, retried_while_away
from sd_common.stream_reader import StreamReader
from sd_common.streams import REVOKED_TOKENS_BUCKET, keys_of_bucket, stream_of_bucket
from sd_common.timed_wait import set_within

log = structlog.get_logger(__name__)

#: What was stored since is read again: a replica that lags may have answered, and core messages may be lost.
_READ_EVERY_S = 30.0
_RETRY_PAUSE_S = 0.2
#: Once connected, as long as a submission is tried again: a restart of NATS is waited for.
_KNOWN_WITHIN_S = RETRY_FOR_S


class RevokedTokens:
    """All revoked tokens that have not expired."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._reader = StreamReader(client, stream_of_bucket(REVOKED_TOKENS_BUCKET))
        #: When a revoked token would have expired, in seconds since 1970.
        self._expiry: dict[str, float] = {}
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._last_sequence = 0
        self._num_reconnects_when_read: int | None = None
        self._reconnected = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, then read what was revoked before. May be tried again after `Unavailable`."""
        if self._reading is None:
            await self._client.subscribe(subjects.REVOKED_TOKENS, cb=self._on_revoked)
            self._client.on_reconnect(self._on_reconnect)
            self._reading = asyncio.create_task(self._keep_reading(), name="read-revoked-tokens")
        await self.check_known()

    def stop(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    @property
    def is_known(self) -> bool:
        """Whether all revoked tokens are known: they were read since the connection stands, and it does."""
        return self._client.is_connected and self._client.stats["reconnects"] == self._num_reconnects_when_read

    async def check_known(self) -> None:
        """Return when all revoked tokens are known. Raises `Unavailable` where they are not before long."""

        async def check() -> None:
            if not self.is_known:
                raise nats.errors.ConnectionReconnectingError

        await self._client.check_connected()
        await retried_while_away(check, _KNOWN_WITHIN_S)

    async def is_revoked(self, token_id: str) -> bool:
        """Whether a token was revoked. Raises as `check_known`."""
        await self.check_known()
        return token_id in self._expiry

    async def wait_until_revoked(self, token_id: str) -> None:
        """Return when the token is revoked."""
        if token_id in self._expiry:
            return
        revoked = asyncio.get_running_loop().create_future()
        self._waiting[token_id].add(revoked)
        try:
            await revoked
        finally:
            self._waiting[token_id].discard(revoked)
            if not self._waiting[token_id]:
                del self._waiting[token_id]

    def add(self, token: RevokedToken) -> None:
        """Accept this token no more."""
        self._expiry[token.token_id] = token.expires_at.timestamp()
        for revoked in self._waiting.get(token.token_id, ()):
            if not revoked.done():
                revoked.set_result(None)

    async def _on_revoked(self, message: Msg) -> None:
        self._add_json(message.data)

    async def _on_reconnect(self) -> None:
        self._reconnected.set()

    async def _keep_reading(self) -> None:
        while True:
            self._reconnected.clear()
            try:
                await self._read()
            except (Unavailable, nats.errors.Error) as error:
                log.warning("revoked_tokens_not_read", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_PAUSE_S)
            except Exception:
                log.exception("revoked_tokens_not_read")
                await asyncio.sleep(_RETRY_PAUSE_S)
            else:
                await set_within(self._reconnected, _READ_EVERY_S)

    async def _read(self) -> None:
        """Read what was stored since the last time; all of it after a reconnect, since the bucket may be another."""
        num_reconnects = self._client.stats["reconnects"]
        if num_reconnects != self._num_reconnects_when_read:
            self._last_sequence = 0
        async for message in self._reader.replay(keys_of_bucket(REVOKED_TOKENS_BUCKET), self._last_sequence + 1):
            self._add_json(message.data)
            self._last_sequence = message.sequence
        self._forget_expired()
        self._num_reconnects_when_read = num_reconnects

    def _add_json(self, data: bytes) -> None:
        try:
            self.add(RevokedToken.model_validate_json(data))
        except ValidationError:
            log.warning("revoked_token_ignored")

    def _forget_expired(self) -> None:
        expired_before = time.time() - LEEWAY_S
        self._expiry = {token_id: expiry for token_id, expiry in self._expiry.items() if expiry >= expired_before}
