"""The life of tasks in the EVENTS stream: append with compare-and-set, read the last event, replay.

The stream itself is the state machine. An append names the sequence that it believes to be the task's last
(`Nats-Expected-Last-Subject-Sequence`); the server refuses it (error 10071) when somebody was first. So a task gets
exactly one terminal event, whoever races.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import APIError, NotFoundError

from sd_common import subjects
from sd_common.errors import SequenceConflict, TaskEnded, Unavailable
from sd_common.events import (
    AbortedEvent,
    FinishedEvent,
    PendingEvent,
    StartedEvent,
    is_terminal,
    stored_event_adapter,
)
from sd_common.nats_client import REQUEST_TIMEOUT_S, NatsClient
from sd_common.retries import retried_while_away
from sd_common.streams import EVENTS
from sd_common.subjects import TaskRef
from sd_common.tracing import trace_headers

StoredEventModel = PendingEvent | StartedEvent | FinishedEvent | AbortedEvent

#: Expected sequence of a task that has no event yet.
NO_EVENT = 0
_WRONG_LAST_SEQUENCE = 10071
_REPLAY_BATCH = 500
#: Left alone, the server sends up to its `max_pending` at once, and then may end the connection as too slow.
_REPLAY_BATCH_BYTES = 4 * 1024 * 1024
_DIRECT_GET = f"$JS.API.DIRECT.GET.{EVENTS}"


@dataclass(frozen=True)
class LoggedEvent:
    """An event as it stands in the stream."""

    ref: TaskRef
    sequence: int
    data: bytes

    @property
    def event(self) -> StoredEventModel:
        """The parsed event; raises pydantic's ValidationError for one of a later version."""
        return stored_event_adapter.validate_json(self.data)

    def shown(self) -> bytes:
        """What clients see: the stored bytes with the `sequence` spliced in."""
        return b'{"sequence":%d,%s' % (self.sequence, self.data.lstrip()[1:])


class TaskLog:
    """Events of all tasks."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._js = client.jetstream(timeout=REQUEST_TIMEOUT_S)

    async def append(self, ref: TaskRef, event: StoredEventModel, expected_sequence: int) -> int:
        """Append `event` if `expected_sequence` is the task's last, and return its sequence.

        Raises `TaskEnded` or `SequenceConflict` where somebody was first, `Unavailable` where NATS does not answer.
        """
        payload = event.model_dump_json().encode()
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected_sequence), **trace_headers()}
        try:
            ack = await retried_while_away(
                lambda: self._js.publish(ref.events, payload, stream=EVENTS, headers=dict(headers))
            )
        except APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise
        else:
            return ack.seq
        last = await self.last(ref)
        if last is not None and last.data == payload:
            return last.sequence  # an earlier try had landed though its answer was lost
        if last is not None and is_terminal(last.event):
            raise TaskEnded(ref.task_id, last.event.event_type)
        raise SequenceConflict(ref.task_id)

    async def last(self, ref: TaskRef) -> LoggedEvent | None:
        """The task's last event, or None where it has none."""
        return await self._last_of(ref.events)

    async def last_of_user(self, user: str, task_id: str) -> LoggedEvent | None:
        """The last event of a user's task, whichever session it belongs to."""
        return await self._last_of(subjects.events_of_task(user, task_id))

    async def last_sequence(self) -> int:
        """The highest sequence of the stream."""
        info = await retried_while_away(lambda: self._js.stream_info(EVENTS))
        return info.state.last_seq

    async def replay(self, subject_filter: str, since: int) -> AsyncIterator[LoggedEvent]:
        """All events whose subject matches, with a sequence of at least `since`, in order. Ends at the last one."""
        while True:
            batch, num_left = await retried_while_away(partial(self._get_batch, subject_filter, since))
            for event in batch:
                yield event
            if not batch or num_left == 0:
                return
            since = batch[-1].sequence + 1

    async def _last_of(self, subject: str) -> LoggedEvent | None:
        try:
            message = await retried_while_away(lambda: self._js.get_last_msg(EVENTS, subject, direct=True))
        except NotFoundError:
            return None
        _, ref = subjects.parse_task_subject(str(message.subject))
        return LoggedEvent(ref, int(message.seq or 0), message.data or b"")

    async def _get_batch(self, subject_filter: str, since: int) -> tuple[list[LoggedEvent], int]:
        """One batched direct get (ADR-31): many messages, then a status that ends them and tells how many are left.

        A batch may end early, by its bytes.
        """
        request = {
            "batch": _REPLAY_BATCH,
            "max_bytes": _REPLAY_BATCH_BYTES,
            "seq": max(since, 1),
            "next_by_subj": subject_filter,
        }
        replies: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=replies.put)
        try:
            await self._client.publish(_DIRECT_GET, json.dumps(request).encode(), reply=inbox)
            batch: list[LoggedEvent] = []
            while True:
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT_S):
                        reply = await replies.get()
                except TimeoutError as error:
                    raise nats.errors.TimeoutError from error
                headers = reply.headers or {}
                match headers.get("Status"):
                    case None:
                        _, ref = subjects.parse_task_subject(headers["Nats-Subject"])
                        batch.append(LoggedEvent(ref, int(headers["Nats-Sequence"]), reply.data))
                    case "204":
                        return batch, int(headers["Nats-Num-Pending"])
                    case "404":
                        return batch, 0
                    case "503":
                        raise nats.errors.NoRespondersError
                    case status:
                        raise Unavailable(f"The task log ({status} {headers.get('Description', '')})")
        finally:
            await subscription.unsubscribe()
