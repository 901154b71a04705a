"""Users in the KV bucket `users`: one entry a user, created once."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import AwareDatetime, ConfigDict, Field

from sd_auth.errors import UserExists
from sd_common.buckets import Bucket
from sd_common.messages import Message, Token, now


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
    """All users. Every call raises `Unavailable` where the bucket does not answer."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def create(self, record: UserRecord) -> None:
        """Store a new user, or raise `UserExists`: of several at once, exactly one succeeds."""
        value = record.model_dump_json().encode()
        try:
            await self._bucket.answered(lambda bucket: bucket.create(record.username, value))
        except KeyWrongLastSequenceError:
            found = await self.find(record.username)
            # An earlier try whose answer was lost had stored this very record: the salt makes each hash unique.
            if found is None or found.record != record:
                raise UserExists(record.username) from None

    async def find(self, username: str) -> FoundUser | None:
        """The user of this name, or None."""
        try:
            entry = await self._bucket.answered(lambda bucket: bucket.get(username))
        except KeyNotFoundError:
            return None
        return FoundUser(UserRecord.model_validate_json(entry.value or b""), entry.revision or 0)

    async def delete(self, username: str) -> bool:
        """Delete the user of this name, whatever its record says; False where there was none."""
        try:
            await self._bucket.answered(lambda bucket: bucket.get(username))
        except KeyNotFoundError:
            return False
        await self._bucket.answered(lambda bucket: bucket.delete(username))
        return True

    async def replace_hash(self, found: FoundUser, password_hash: str) -> None:
        """Store another hash of the same password, unless somebody changed the user meanwhile."""
        value = found.record.model_copy(update={"password_hash": password_hash}).model_dump_json().encode()
        with contextlib.suppress(KeyWrongLastSequenceError):
            await self._bucket.answered(lambda bucket: bucket.update(found.record.username, value, last=found.revision))
