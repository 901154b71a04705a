"""Submit under an `Idempotency-Key`: what is submitted again is the same task.

The key's record names the task before its job is queued. Whoever comes with the key then, at whichever gateway, submits
that very task: the message id of its job and the condition of its `pending` let one of them succeed.
"""

from __future__ import annotations

import hashlib
import json

import structlog

from sd_common.errors import QueueFull, Unavailable
from sd_common.parameters import AnyParameters
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.errors import IdempotencyKeyReused, InvalidInput, Overloaded, TooManyRequests, TooManyUnfinishedTasks
from sd_gateway.idempotency_keys import Claim, IdempotencyKeys
from sd_gateway.submit import Submitter, bind_task

log = structlog.get_logger(__name__)


class IdempotentSubmitter:
    """Submits tasks under a key."""

    def __init__(self, keys: IdempotencyKeys, task_log: TaskLog, submitter: Submitter) -> None:
        self._keys = keys
        self._task_log = task_log
        self._submitter = submitter

    async def submit(self, identity: Identity, key: str, parameters: AnyParameters) -> TaskRef:
        """The task of the key, queued now where it was not.

        Raises as `Submitter.submit`, and `IdempotencyKeyReused`.
        """
        claim = await self._claim(identity, key, digest_of(parameters))
        ref = claim.record.ref
        bind_task(ref)
        # Without an event, the gateway that made the record is about to queue the job, or died before it told.
        if not claim.is_new and await self._task_log.last(ref) is not None:
            return ref
        try:
            await self._submitter.submit(ref, parameters, claim.record.blob_id)
        except (InvalidInput, Overloaded, TooManyRequests, TooManyUnfinishedTasks, QueueFull):
            await self._release(claim)  # no `Unavailable`, a full store among them: an earlier try may have queued it
            raise
        return ref

    async def _claim(self, identity: Identity, key: str, digest: str) -> Claim:
        while True:
            claim = await self._keys.claim(identity, key, digest)
            if claim.record.digest == digest:
                return claim
            # Refused once, it may have been queued by another gateway at that moment.
            if not claim.record.is_released or await self._task_log.last(claim.record.ref) is not None:
                raise IdempotencyKeyReused
            if (taken_over := await self._keys.take_over(claim, digest)) is not None:
                return taken_over

    async def _release(self, claim: Claim) -> None:
        if claim.is_new:  # else whoever made it may have queued the job
            try:
                await self._keys.release(claim)
            except Unavailable:
                log.warning("idempotency_key_not_released")  # the same parameters still have it


def digest_of(parameters: AnyParameters) -> str:
    """SHA-256 of what was given, however its JSON was written."""
    given = {**parameters.given(), "params_type": parameters.params_type}
    return hashlib.sha256(json.dumps(given, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
