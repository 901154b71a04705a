"""Users in the KV bucket `users`: one entry a user, created once."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import nats.errors
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, ServerError
from nats.js.kv import KeyValue
from pydantic import AwareDatetime, ConfigDict, Field

from sd_auth.errors import UserExists, UsersUnavailable
from sd_common.errors import Unavailable
from sd_common.messages import Message, Token, now
from sd_common.nats_client import NatsClient
from sd_common.retries import retried_while_away
from sd_common.streams import USERS_BUCKET

_CALL_TIMEOUT_S = 1.0
#: Clients wait 5 s for an answer; give up before they do, so that they are told why.
_RETRY_FOR_S = 3.0

T = TypeVar("T")


class UserRecord(Message):
    """A user, as stored."""

    model_config = ConfigDict(hide_input_in_errors=True)

    username: Token
    password_hash: str = Field(repr=False)
    created_at: AwareDatetime = Field(default_factory=now)


@dataclass(frozen=True)
class FoundUser:
    """A stored user and the revision it was read at."""

    record: UserRecord
    revision: int


class Users:
    """All users. Every call raises `UsersUnavailable` where the bucket does not answer."""

    def __init__(self, client: NatsClient) -> None:
        self._js = client.jetstream(timeout=_CALL_TIMEOUT_S)
        self._bucket: KeyValue | None = None

    async def create(self, record: UserRecord) -> None:
        """Store a new user, or raise `UserExists`: of several at once, exactly one succeeds."""
        value = record.model_dump_json().encode()

        async def create() -> None:
            await (await self._open()).create(record.username, value)

        try:
            await _answered(create)
        except KeyWrongLastSequenceError:
            found = await self.find(record.username)
            # An earlier try whose answer was lost had stored this very record: the salt makes each hash unique.
            if found is None or found.record != record:
                raise UserExists(record.username) from None

    async def find(self, username: str) -> FoundUser | None:
        """The user of this name, or None."""

        async def get() -> KeyValue.Entry:
            return await (await self._open()).get(username)

        try:
            entry = await _answered(get)
        except KeyNotFoundError:
            return None
        return FoundUser(UserRecord.model_validate_json(entry.value or b""), entry.revision or 0)

    async def replace_hash(self, found: FoundUser, password_hash: str) -> None:
        """Store another hash of the same password, unless somebody changed the user meanwhile."""
        value = found.record.model_copy(update={"password_hash": password_hash}).model_dump_json().encode()

        async def update() -> None:
            await (await self._open()).update(found.record.username, value, last=found.revision)

        with contextlib.suppress(KeyWrongLastSequenceError):
            await _answered(update)

    async def missing(self) -> str | None:
        """Why the bucket cannot be reached, or None where it can."""
        try:
            await self._js.key_value(USERS_BUCKET)
        except BucketNotFoundError:
            return f"there is no bucket '{USERS_BUCKET}': run `python -m sd_common.provision`"
        except (nats.errors.Error, TimeoutError) as error:
            return f"the bucket '{USERS_BUCKET}' does not answer ({type(error).__name__})"
        return None

    async def _open(self) -> KeyValue:
        # Opened when first needed, not at start: the service may be there before the bucket is.
        if self._bucket is None:
            self._bucket = await self._js.key_value(USERS_BUCKET)
        return self._bucket


async def _answered(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await retried_while_away(call, _RETRY_FOR_S)
    except (Unavailable, BucketNotFoundError, ServerError) as error:
        raise UsersUnavailable from error
