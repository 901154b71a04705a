"""What this worker tells of a task."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import nats.errors
from pydantic import ValidationError

from sd_common.errors import SequenceConflict, TaskEnded
from sd_common.events import (
    AbortCode,
    AbortedEvent,
    FinishedEvent,
    PendingEvent,
    ProgressEvent,
    StartedEvent,
    StoredEvent,
    TaskResult,
    TaskTimings,
    TerminalEvent,
)
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from sd_worker.delivery import Delivery
from sd_worker.engine.tasks import Progress
from sd_worker.errors import LaterVersion, TaskLost


@dataclass(frozen=True)
class NextAttempt:
    """What a start of a task would be, and the sequence of the event that it would follow."""

    ref: TaskRef
    number: int
    last_sequence: int


@dataclass(frozen=True)
class Attempt:
    """A start of a task by this worker, and the sequence of its `started` event."""

    ref: TaskRef
    number: int
    started_sequence: int


class EventPublisher:
    """Appends to the task log for one worker."""

    def __init__(self, client: NatsClient, task_log: TaskLog, worker: str, max_attempts: int) -> None:
        self._client = client
        self._task_log = task_log
        self._worker = worker
        self._max_attempts = max_attempts
        self._exhausted_reason = (
            f"The task was started {max_attempts} times and never ended: "
            "its workers were lost, or what they need was away"
        )
        #: Subjects and payloads.
        self._progress: deque[tuple[str, bytes]] = deque()
        self._publishing: asyncio.Task[None] | None = None

    async def next_attempt(self, ref: TaskRef, delivery: Delivery) -> NextAttempt:
        """What `start` would begin. Appends `pending` where nobody has.

        Attempts are counted by events, not by deliveries (ADR 4). Raises `TaskLost` where the job has been given to
        another worker, or soon will be; `LaterVersion`; `TaskEnded`, also when it ends the task here since its attempts
        are used up.
        """
        last_sequence, last = await self._last_of_unended(ref, delivery.job_sequence)
        if delivery.has_lapsed or _is_of_later_delivery(last, delivery):
            raise TaskLost(ref.task_id)
        number = _num_attempts(last) + 1
        if number > self._max_attempts:
            await self.refuse(ref, delivery.job_sequence, "attempts_exhausted", self._exhausted_reason)
            raise TaskEnded(ref.task_id, "aborted")
        return NextAttempt(ref, number, last_sequence)

    async def start(self, coming: NextAttempt, delivery: Delivery) -> Attempt:
        """Append `started`; where somebody appended meanwhile, as the attempt that is next then. Raises what
        `next_attempt` does."""
        ref = coming.ref
        while True:
            if delivery.has_lapsed:
                raise TaskLost(ref.task_id)
            started = StartedEvent(
                task_id=ref.task_id, attempt=coming.number, worker=self._worker, delivery=delivery.number
            )
            with _somebody_was_first():
                sequence = await self._task_log.append(ref, started, coming.last_sequence)
                return Attempt(ref, coming.number, sequence)
            coming = await self.next_attempt(ref, delivery)

    async def refuse(self, ref: TaskRef, job_sequence: int, code: AbortCode, reason: str) -> None:
        """Append `aborted` to a task that does not run here. Raises `TaskEnded`, `LaterVersion`."""
        event = AbortedEvent(task_id=ref.task_id, reason=reason, code=code)
        while True:
            last_sequence, _ = await self._last_of_unended(ref, job_sequence)
            with _somebody_was_first():
                await self._task_log.append(ref, event, last_sequence)
                return

    async def _last_of_unended(self, ref: TaskRef, job_sequence: int) -> tuple[int, StoredEvent]:
        """The task's last event and its sequence; `pending` is written where there is none. Raises `TaskEnded`,
        `LaterVersion`."""
        while (last := await self._task_log.last(ref)) is None:
            pending = PendingEvent(task_id=ref.task_id, job_sequence=job_sequence)
            with _somebody_was_first():
                await self._task_log.append(ref, pending, NO_EVENT)
        if last.is_terminal:
            raise TaskEnded(ref.task_id, last.event_type)
        try:
            return last.sequence, last.event
        except ValidationError as error:
            raise LaterVersion(ref.task_id) from error

    async def hand_back(self, attempt: Attempt, job_sequence: int) -> None:
        """Append `pending`: the job is about to go back to the queue, and the attempt does not count. Raises
        `TaskEnded`, `TaskLost`."""
        event = PendingEvent(
            task_id=attempt.ref.task_id,
            job_sequence=job_sequence,
            num_attempts=attempt.number - 1,
            handed_back_by=self._worker,
        )
        await self._follow(attempt, event)

    async def check(self, attempt: Attempt) -> None:
        """Raises `TaskEnded`, `TaskLost` where the attempt is not the task's last event any more."""
        last = await self._task_log.last(attempt.ref)
        if last is not None and last.is_terminal:
            raise TaskEnded(attempt.ref.task_id, last.event_type)
        if last is None or last.sequence > attempt.started_sequence:  # a lower one is of a replica that is behind
            raise TaskLost(attempt.ref.task_id)

    async def finish(self, attempt: Attempt, result: TaskResult, timings: TaskTimings) -> None:
        """Append `finished`. Raises `TaskEnded`, `TaskLost`."""
        event = FinishedEvent(
            task_id=attempt.ref.task_id, attempt=attempt.number, worker=self._worker, result=result, timings=timings
        )
        await self._follow(attempt, event)

    async def abort(self, attempt: Attempt, code: AbortCode, reason: str) -> None:
        """Append `aborted`. Raises `TaskEnded`, `TaskLost`."""
        await self._follow(attempt, AbortedEvent(task_id=attempt.ref.task_id, reason=reason, code=code))

    def progress(self, ref: TaskRef, progress: Progress) -> None:
        """Publish without waiting; it may get lost."""
        event = ProgressEvent(
            task_id=ref.task_id,
            stage=progress.stage,
            step=progress.step,
            steps=progress.steps,
            bytes=progress.bytes_done,
            total_bytes=progress.bytes_total,
        )
        self._progress.append((ref.progress, event.model_dump_json().encode()))
        if self._publishing is None or self._publishing.done():
            self._publishing = asyncio.create_task(self._publish_progress(), name="publish-progress")

    async def _follow(self, attempt: Attempt, event: PendingEvent | TerminalEvent) -> None:
        try:
            # Only after this very attempt: a worker whose job was given away meanwhile changes nothing.
            await self._task_log.append(attempt.ref, event, attempt.started_sequence)
        except (SequenceConflict, ValidationError) as error:
            raise TaskLost(attempt.ref.task_id) from error

    async def _publish_progress(self) -> None:
        while self._progress:
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(*self._progress.popleft())


@contextlib.contextmanager
def _somebody_was_first() -> Iterator[None]:
    """Pass over that; the log cannot read what they appended where it is of a later version."""
    with contextlib.suppress(SequenceConflict, ValidationError):
        yield


def _is_of_later_delivery(event: StoredEvent, delivery: Delivery) -> bool:
    """Whether the task runs elsewhere, and `delivery` is one that its worker has slept through."""
    return isinstance(event, StartedEvent) and event.delivery is not None and event.delivery > delivery.number


def _num_attempts(event: StoredEvent) -> int:
    """How often the task was started, up to its last event, by workers that did not hand it back."""
    match event:
        case PendingEvent():
            return event.num_attempts
        case StartedEvent():
            return event.attempt
    return 0
