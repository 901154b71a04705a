"""A KV bucket, opened when it is first needed: the service may be there before the bucket is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats.errors
from nats.js.errors import BucketNotFoundError, ServerError
from nats.js.kv import KeyValue

from sd_auth.errors import BucketUnavailable
from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient
from sd_common.retries import retried_while_away

_CALL_TIMEOUT_S = 1.0
#: Clients wait 5 s for an answer; give up before they do, so that they are told why.
_RETRY_FOR_S = 3.0

T = TypeVar("T")


class Bucket:
    """One bucket."""

    def __init__(self, client: NatsClient, name: str) -> None:
        self._js = client.jetstream(timeout=_CALL_TIMEOUT_S)
        self._name = name
        self._opened: KeyValue | None = None

    async def answered(self, call: Callable[[KeyValue], Awaitable[T]]) -> T:
        """What `call` returns; `BucketUnavailable` where the bucket does not answer. It must be safe to repeat."""

        async def call_opened() -> T:
            if self._opened is None:
                self._opened = await self._js.key_value(self._name)
            return await call(self._opened)

        try:
            return await retried_while_away(call_opened, _RETRY_FOR_S)
        except (Unavailable, BucketNotFoundError, ServerError) as error:
            raise BucketUnavailable(self._name) from error

    async def missing(self) -> str | None:
        """Why the bucket cannot be reached, or None where it can."""
        try:
            await self._js.key_value(self._name)
        except BucketNotFoundError:
            return f"there is no bucket '{self._name}': run `python -m sd_common.provision`"
        except (nats.errors.Error, TimeoutError) as error:
            return f"the bucket '{self._name}' does not answer ({type(error).__name__})"
        return None
