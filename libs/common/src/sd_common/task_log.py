"""The life of tasks in the EVENTS stream: append with compare-and-set, read the last event, replay.

The stream itself is the state machine. An append names the sequence that it believes to be the task's last
(`Nats-Expected-Last-Subject-Sequence`); the server refuses it (error 10071) when somebody was first. So a task gets
exactly one terminal event, whoever races. In a cluster the server may not know yet who was first: it is asked again
(`retries`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime

from nats.js.errors import APIError, NotFoundError
from opentelemetry.trace import SpanKind

from sd_common import subjects
from sd_common.errors import SequenceConflict, TaskEnded
from sd_common.events import AbortedEvent, StoredEvent
from sd_common.logged_event import LoggedEvent, event_of_stream, event_type_of
from sd_common.metrics import TaskMetrics
from sd_common.nats_client import REQUEST_TIMEOUT_S, NatsClient
from sd_common.retries import retried_while_away
from sd_common.stream_reader import StreamReader
from sd_common.streams import EVENTS
from sd_common.subjects import TaskRef
from sd_common.tracing import sent_to, span, trace_headers

#: Expected sequence of a task that has no event yet.
NO_EVENT = 0
#: Tasks whose newest event is remembered, for as long as replicas may be behind.
_NUM_NOTED = 1000
_WRONG_LAST_SEQUENCE = 10071


@dataclass(frozen=True)
class Extent:
    """The sequences of the oldest and of the newest event, the first one more than the last where none is left; and
    when the stream was made."""

    oldest: int
    newest: int
    stream_made_at: datetime | None


class TaskLog:
    """Events of all tasks."""

    def __init__(
        self,
        client: NatsClient,
        metrics: TaskMetrics | None = None,
        *,
        asks_leader: bool = True,
        waits_while_full: bool = False,
    ) -> None:
        """`asks_leader`: whether the stream's leader is asked where a replica, which may be behind, is not enough. That
        takes the right to read the whole stream. `waits_while_full`: whether an append to a stream that is full is
        tried again for as long as one that finds nobody, for those whose work would be lost."""
        self._js = client.jetstream(timeout=REQUEST_TIMEOUT_S)
        self._asks_leader = asks_leader
        self._waits_while_full = waits_while_full
        self._reader = StreamReader(client, EVENTS)
        self._metrics = metrics or TaskMetrics()
        self._noted: OrderedDict[TaskRef, LoggedEvent] = OrderedDict()

    async def append(self, ref: TaskRef, event: StoredEvent, expected_sequence: int) -> int:
        """Append `event` if `expected_sequence` is the task's last, and return its sequence.

        Raises `TaskEnded` or `SequenceConflict` where somebody was first, `StoreFull`, and `Unavailable` where NATS
        does not answer.
        """
        attributes = {**sent_to(EVENTS), "sd.task_id": ref.task_id, "sd.event_type": event.event_type}
        if isinstance(event, AbortedEvent):
            attributes["sd.code"] = event.code
        with span(f"publish {EVENTS} {event.event_type}", SpanKind.PRODUCER, attributes):
            sequence = await self._append(ref, event, expected_sequence)
        self._metrics.appended(event)
        return sequence

    async def _append(self, ref: TaskRef, event: StoredEvent, expected_sequence: int) -> int:
        payload = event.model_dump_json().encode()
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected_sequence), **trace_headers()}
        try:
            ack = await retried_while_away(
                lambda: self._js.publish(ref.events, payload, stream=EVENTS, headers=dict(headers)),
                waits_while_full=self._waits_while_full,
            )
        except APIError as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise
        else:
            self.note(LoggedEvent(ref, ack.seq, payload))
            return ack.seq
        last = await self._last_of(ref.events, direct=not self._asks_leader)
        if last is not None and last.data == payload:
            return last.sequence  # an earlier try had landed though its answer was lost
        self._metrics.conflicts.inc()
        if last is not None and last.is_terminal:
            raise TaskEnded(ref.task_id, last.event_type)
        raise SequenceConflict(ref.task_id)

    def note(self, event: LoggedEvent) -> None:
        """Remember a stored event: from now on no earlier one of its task is told, even by a replica that is behind.
        Appended events are remembered already."""
        noted = self._noted.pop(event.ref, event)
        self._noted[event.ref] = max(noted, event, key=lambda event: event.sequence)
        if len(self._noted) > _NUM_NOTED:
            self._noted.popitem(last=False)

    def forget(self) -> None:
        """Forget all that was remembered: the stream was made anew."""
        self._noted.clear()

    async def last(self, ref: TaskRef, *, of_leader: bool = False) -> LoggedEvent | None:
        """The task's last event, or None where it has none. A replica may tell an earlier one, where nothing later
        was noted; the leader does not."""
        return await (self._last_of(ref.events, direct=False) if of_leader else self._last_if_any(ref.events))

    async def last_of_user(self, user: str, task_id: str) -> LoggedEvent | None:
        """The last event of a user's task, whichever session it belongs to. None also where that is no event."""
        last = await self._last_if_any(subjects.events_of_task(user, task_id))
        return last if last is not None and event_type_of(last.data) is not None else None

    async def last_of_tasks(self, refs: Iterable[TaskRef]) -> dict[TaskRef, LoggedEvent]:
        """The last event of each task that has any, of 1,024 tasks at most. What is no event is left out."""
        found: dict[TaskRef, LoggedEvent] = {}
        missing = {ref.events for ref in refs}
        while missing:
            batch = await self._reader.batch({"multi_last": sorted(missing)})
            events = [event for message in batch.messages if (event := event_of_stream(message)) is not None]
            found.update((event.ref, self._newer(event)) for event in events)
            missing -= {message.subject for message in batch.messages}
            if not batch.messages or batch.num_left == 0:
                break
        return found

    async def last_sequence(self) -> int:
        """The highest sequence of the stream."""
        return (await self.extent()).newest

    async def extent(self) -> Extent:
        """What is stored. The stream's leader tells: replicas may be behind."""
        info = await retried_while_away(lambda: self._js.stream_info(EVENTS))
        return Extent(info.state.first_seq, info.state.last_seq, info.created)

    async def num_events(self, subject_filter: str, since: int) -> int:
        """How many events whose subject matches have a sequence of at least `since`."""
        return await self._reader.num_from(subject_filter, since)

    async def replay(
        self, subject_filter: str, since: int, num_at_once: int | None = None
    ) -> AsyncIterator[LoggedEvent]:
        """All events whose subject matches, with a sequence of at least `since`, in order. Ends at the last one."""
        async for message in self._reader.replay(subject_filter, since, num_at_once):
            if (event := event_of_stream(message)) is not None:
                yield event

    async def replay_all(self, since: int) -> AsyncIterator[tuple[int, LoggedEvent | None]]:
        """Every sequence of the stream from `since` on, with its event: None where that is none, or of no task."""
        async for message in self._reader.replay(">", since):
            yield message.sequence, event_of_stream(message)

    async def _last_if_any(self, subject: str) -> LoggedEvent | None:
        """As any replica has it. One that is behind does not deny a task: of three, 13 of 1,500 reads right after the
        first append found nothing."""
        last = await self._last_of(subject, direct=True)
        if last is None:  # also where its events have aged out, whatever was noted
            return await self._last_of(subject, direct=False) if self._asks_leader else None
        return self._newer(last)

    def _newer(self, last: LoggedEvent) -> LoggedEvent:
        return max(last, self._noted.get(last.ref, last), key=lambda event: event.sequence)

    async def _last_of(self, subject: str, *, direct: bool) -> LoggedEvent | None:
        """As the stream's leader has it; `direct`: as any replica has it, which may be behind."""
        try:
            message = await retried_while_away(lambda: self._js.get_last_msg(EVENTS, subject, direct=direct))
        except NotFoundError:
            return None
        _, ref = subjects.parse_task_subject(str(message.subject))
        return LoggedEvent(ref, int(message.seq or 0), message.data or b"")
