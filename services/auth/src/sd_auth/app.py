"""The auth service as a whole: its parts, and the order in which they start and stop."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

import structlog

from sd_auth.metrics import AuthMetrics
from sd_auth.operations import Operations
from sd_auth.passwords import Passwords
from sd_auth.revoked_tokens import RevokedTokens
from sd_auth.service import AuthService
from sd_auth.settings import AuthSettings
from sd_auth.tokens import Tokens
from sd_auth.users import Users
from sd_common.buckets import Bucket
from sd_common.errors import Unavailable
from sd_common.health import serving_health
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.streams import REVOKED_TOKENS_BUCKET, USERS_BUCKET

log = structlog.get_logger(__name__)


#: Clients wait 5 s for an answer: it must come before, so that they are told why.
_BUCKET_TIMEOUT_S = 1.0
_BUCKET_RETRY_FOR_S = 3.0


class AuthApp:
    """Runs in the event loop of whoever starts it: `python -m sd_auth`, or a process that embeds it."""

    def __init__(self, settings: AuthSettings, nats_settings: NatsSettings, metrics: AuthMetrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics or AuthMetrics()
        self._nats_settings = nats_settings
        self._parts = AsyncExitStack()
        #: The port of the health server, where there is one.
        self.health_port: int | None = None
        self._client: NatsClient | None = None
        self._buckets: dict[str, Bucket] = {}

    async def start(self) -> None:
        """Return once requests are taken. Waits for NATS; what had started is stopped again where a part fails."""
        async with AsyncExitStack() as parts:
            # First, so that a service that waits for NATS tells so.
            settings, process = self._settings, self._metrics.process
            health = serving_health(settings.health_host, settings.health_port, self._readiness, process.registry)
            self.health_port = await parts.enter_async_context(health)
            client = await connect(self._nats_settings, "auth", process.nats)
            parts.push_async_callback(client.shut)
            self._client = client
            users, revoked_tokens = (
                Bucket(client, name, timeout_s=_BUCKET_TIMEOUT_S, retry_for_s=_BUCKET_RETRY_FOR_S)
                for name in (USERS_BUCKET, REVOKED_TOKENS_BUCKET)
            )
            self._buckets = {USERS_BUCKET: users, REVOKED_TOKENS_BUCKET: revoked_tokens}
            passwords = Passwords()
            parts.push_async_callback(passwords.aclose)
            tokens = Tokens(settings.secret_key, settings.previous_secret_keys, settings.access_token_expire_minutes)
            operations = Operations(settings, Users(users), passwords, tokens, RevokedTokens(revoked_tokens))
            service = AuthService(client, operations, self._metrics)
            parts.push_async_callback(service.stop)
            await service.start()
            with contextlib.suppress(Unavailable):
                await operations.warn_of_publishers_that_are_users()
            self._parts = parts.pop_all()
        log.info("auth_started", health_port=self.health_port)

    async def stop(self) -> None:
        """Answer the requests under way, then stop the parts in the reverse of the order they started in.

        Does nothing where nothing runs.
        """
        await self._parts.aclose()

    async def _readiness(self) -> dict[str, str | None]:
        if self._client is None or not self._client.is_connected:
            return {"nats": "not connected"}
        missing = await asyncio.gather(*(bucket.missing() for bucket in self._buckets.values()))
        return {"nats": None, **dict(zip(self._buckets, missing, strict=True))}
