"""A KV bucket, opened when it is first needed: a service may be there before the bucket is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats.errors
import structlog
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, ServerError
from nats.js.kv import KeyValue

from sd_common.errors import StoreFull, Unavailable
from sd_common.nats_client import REQUEST_TIMEOUT_S, NatsClient
from sd_common.retries import RETRY_FOR_S, retried_while_away

log = structlog.get_logger(__name__)

_STREAM_NOT_FOUND = 10059
_PROVISION = "run `python -m sd_common.provision`"

T = TypeVar("T")


class Bucket:
    """One bucket. A call is tried again for `retry_for_s`, each try for `timeout_s`."""

    def __init__(
        self, client: NatsClient, name: str, timeout_s: float = REQUEST_TIMEOUT_S, retry_for_s: float = RETRY_FOR_S
    ) -> None:
        self._js = client.jetstream(timeout=timeout_s)
        self._name = name
        self._retry_for_s = retry_for_s
        self._opened: KeyValue | None = None

    async def answered(self, call: Callable[[KeyValue], Awaitable[T]]) -> T:
        """What `call`, which must be safe to repeat, returns. Raises `StoreFull`, and `Unavailable` where the bucket
        does not answer."""

        async def call_opened() -> T:
            if self._opened is None:
                self._opened = await self._js.key_value(self._name)
            try:
                return await call(self._opened)
            except KeyNotFoundError as error:
                # nats-py says so of a bucket that has gone, too.
                if getattr(error.__context__, "err_code", None) == _STREAM_NOT_FOUND:
                    raise BucketNotFoundError from error
                raise

        try:
            return await retried_while_away(call_opened, self._retry_for_s)
        except BucketNotFoundError as error:
            log.error("no_bucket", bucket=self._name, hint=_PROVISION)
            raise Unavailable(f"The bucket '{self._name}'") from error
        except StoreFull:
            raise
        except (Unavailable, ServerError) as error:
            raise Unavailable(f"The bucket '{self._name}'") from error

    async def missing(self) -> str | None:
        """Why the bucket cannot be reached, or None where it can."""
        try:
            await self._js.key_value(self._name)
        except BucketNotFoundError:
            return f"there is no bucket '{self._name}': {_PROVISION}"
        except (nats.errors.Error, TimeoutError) as error:
            return f"the bucket '{self._name}' does not answer ({type(error).__name__})"
        return None
