"""The life of tasks in the EVENTS stream: append with compare-and-set, read the last event, replay.

The stream itself is the state machine. An append names the sequence that it believes to be the task's last
(`Nats-Expected-Last-Subject-Sequence`); the server refuses it (error 10071) when somebody was first. So a task gets
exactly one terminal event, whoever races.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from nats.js.errors import APIError, NotFoundError

from sd_common import subjects
from sd_common.batched_gets import read_stream
from sd_common.errors import SequenceConflict, TaskEnded
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
        async for message in read_stream(self._client, EVENTS, subject_filter, since):
            _, ref = subjects.parse_task_subject(message.subject)
            yield LoggedEvent(ref, message.sequence, message.data)

    async def _last_of(self, subject: str) -> LoggedEvent | None:
        try:
            message = await retried_while_away(lambda: self._js.get_last_msg(EVENTS, subject, direct=True))
        except NotFoundError:
            return None
        _, ref = subjects.parse_task_subject(str(message.subject))
        return LoggedEvent(ref, int(message.seq or 0), message.data or b"")
