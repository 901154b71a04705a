"""Whether requests can be served, and which part is missing where they cannot."""

from __future__ import annotations

import asyncio
import time

from sd_common.blob_store import BlobStore
from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient
from sd_gateway.authn import Authenticator
from sd_gateway.event_feed import EventFeed
from sd_gateway.revoked_tokens import RevokedTokens
from sd_gateway.shared_call import SharedCall
from sd_gateway.unfinished_tasks import UnfinishedTasks

#: A check that takes longer has failed.
_TIMEOUT_S = 2.0
_RETRY_PAUSE_S = 0.2
#: Seconds between two checks, however many ask: anybody may, and each takes one of the threads that read pictures. Who
#: comes in between waits for the next, and who comes during one has its result.
_PAUSE_S = 0.5


class Readiness:
    """What `/readyz` tells, of clients' port and of the operators'."""

    def __init__(
        self,
        client: NatsClient,
        blobs: BlobStore,
        authenticator: Authenticator,
        feed: EventFeed,
        revoked_tokens: RevokedTokens,
        unfinished_tasks: UnfinishedTasks,
    ) -> None:
        self._client = client
        self._blobs = blobs
        self._authenticator = authenticator
        self._feed = feed
        self._revoked_tokens = revoked_tokens
        self._unfinished_tasks = unfinished_tasks
        self._checking = SharedCall(self._check_in_time, "check-readiness")
        self._checked_at = float("-inf")
        self._checked: dict[str, str | None] = {}

    async def check(self) -> dict[str, str | None]:
        """Of each part by name: None where it is there, else why it is not. Takes 2.5 s at most."""
        await self._checking.wait()
        return self._checked

    async def _check_in_time(self) -> None:
        await asyncio.sleep(max(0.0, self._checked_at + _PAUSE_S - time.monotonic()))
        self._checked = await self._check_parts()
        self._checked_at = time.monotonic()

    async def _check_parts(self) -> dict[str, str | None]:
        checks = {"nats": self._check_nats, "s3": self._check_s3, "auth": self._check_auth}
        results = await asyncio.gather(*(check() for check in checks.values()), return_exceptions=True)
        return {
            name: (str(result) or "no answer in time") if isinstance(result, BaseException) else None
            for name, result in zip(checks, results, strict=True)
        }

    async def wait(self) -> None:
        """Return when every part is there."""
        while any((await self.check()).values()):  # noqa: ASYNC110 - other processes become ready
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def _check_nats(self) -> None:
        if not self._client.is_connected:
            raise Unavailable("The message broker")
        # A server that stands still keeps its connections. Streams are not asked: their leaders change, and requests
        # ride through that.
        await asyncio.wait_for(self._client.flush(), _TIMEOUT_S)
        if not self._feed.is_started:
            raise Unavailable("The event feed")
        if not self._revoked_tokens.is_known:
            raise Unavailable("The list of revoked tokens")
        if not self._unfinished_tasks.are_known:
            raise Unavailable("The list of unfinished tasks")

    async def _check_s3(self) -> None:
        await asyncio.wait_for(self._blobs.check_available(), _TIMEOUT_S)

    async def _check_auth(self) -> None:
        # Tokens are verified here: the keys are needed, not the service.
        if not self._authenticator.has_keys:
            raise Unavailable("The auth service")
