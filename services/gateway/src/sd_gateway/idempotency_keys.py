"""The bucket of idempotency keys: which task a key of a user names (ADR 19)."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from dataclasses import dataclass

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError
from pydantic import Field

from sd_common.blob_ids import new_blob_id
from sd_common.buckets import Bucket
from sd_common.messages import BlobId, Message, Token
from sd_common.nats_client import NatsClient
from sd_common.streams import IDEMPOTENCY_KEYS_BUCKET
from sd_common.subjects import TaskRef
from sd_gateway.authn import Identity

#: Revision of a key that has no record yet.
_NO_RECORD = 0


class IdempotencyRecord(Message):
    """The task of a key, as stored. The session is that of the first submission: a renewed token has another."""

    user: Token
    session: Token
    task_id: Token
    blob_id: BlobId
    digest: str = Field(description="Of the task's parameters.")
    #: While its task has no event, other parameters may have the key.
    is_released: bool = Field(default=False, description="Whether the task was refused.")

    @property
    def ref(self) -> TaskRef:
        return TaskRef(self.user, self.session, self.task_id)


@dataclass(frozen=True)
class Claim:
    """A key's record and its revision, and whether its digest was written by this claim."""

    name: str
    record: IdempotencyRecord
    revision: int
    is_new: bool


class IdempotencyKeys:
    """All keys. Every call raises `Unavailable` where the bucket does not answer."""

    def __init__(self, client: NatsClient) -> None:
        self._bucket = Bucket(client, IDEMPOTENCY_KEYS_BUCKET)

    async def claim(self, identity: Identity, key: str, digest: str) -> Claim:
        """The key's record, whatever parameters it is of; a new one where there is none."""
        name = f"{identity.user}.{hashlib.sha256(key.encode()).hexdigest()}"
        record = IdempotencyRecord(
            user=identity.user,
            session=identity.session,
            task_id=str(uuid.uuid4()),
            blob_id=new_blob_id(),
            digest=digest,
        )
        while True:
            with contextlib.suppress(KeyWrongLastSequenceError):  # it is there already
                return Claim(name, record, await self._update(name, record, _NO_RECORD), is_new=True)
            with contextlib.suppress(KeyNotFoundError):  # it has aged out
                entry = await self._bucket.answered(lambda bucket: bucket.get(name))
                existing = IdempotencyRecord.model_validate_json(entry.value or b"")
                return Claim(name, existing, entry.revision or 0, is_new=False)

    async def take_over(self, claim: Claim, digest: str) -> Claim | None:
        """Let the parameters of `digest` have a key that was released. None where somebody was first."""
        record = claim.record.model_copy(update={"digest": digest, "is_released": False})
        with contextlib.suppress(KeyWrongLastSequenceError):
            return Claim(claim.name, record, await self._update(claim.name, record, claim.revision), is_new=True)
        return None

    async def release(self, claim: Claim) -> None:
        """Let other parameters have the key, since the task was refused. The task stays the key's: whoever submits it
        at this moment submits no second one."""
        with contextlib.suppress(KeyWrongLastSequenceError):  # an earlier try had landed
            await self._update(claim.name, claim.record.model_copy(update={"is_released": True}), claim.revision)

    async def _update(self, name: str, record: IdempotencyRecord, revision: int) -> int:
        return await self._bucket.answered(lambda bucket: bucket.update(name, _bytes_of(record), last=revision))


def _bytes_of(record: IdempotencyRecord) -> bytes:
    return record.model_dump_json().encode()
