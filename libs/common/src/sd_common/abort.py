"""Abort a task, queued or running."""

from __future__ import annotations

import nats.errors
import structlog

from sd_common.errors import SequenceConflict, TaskEnded, Unavailable
from sd_common.events import CANCELLED_BY_USER, AbortedEvent, PendingEvent
from sd_common.job_queue import JobQueue
from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog

log = structlog.get_logger(__name__)


class Aborter:
    """Aborts tasks on behalf of their users."""

    def __init__(self, client: NatsClient, queue: JobQueue | None, task_log: TaskLog) -> None:
        """`queue`: from which jobs of queued tasks are deleted. Without it, a worker that takes such a job drops it."""
        self._client = client
        self._queue = queue
        self._task_log = task_log

    async def abort(self, ref: TaskRef) -> None:
        """End the task now, unless it has ended already. Raises `Unavailable`."""
        event = AbortedEvent(task_id=ref.task_id, reason=CANCELLED_BY_USER, code="cancelled")
        while True:
            last = await self._task_log.last(ref)
            if last is not None and last.is_terminal:
                return
            try:
                await self._task_log.append(ref, event, last.sequence if last else NO_EVENT)
            except SequenceConflict:
                continue
            except TaskEnded:
                return
            break
        # The log has it; the rest only saves work. A worker that runs the task drops it at its next step.
        try:
            await self._client.publish(ref.cancels)
            if self._queue is not None:
                await _delete_job(self._queue, ref, last)
        except (Unavailable, nats.errors.Error):
            log.warning("work_not_saved_by_abort", task_id=ref.task_id)


async def _delete_job(queue: JobQueue, ref: TaskRef, last: LoggedEvent | None) -> None:
    """Take the job of a task out of the queue that had not started by its `last` event."""
    if last is None:  # nobody told it, or that has aged out; old jobs are the first that are read
        job_sequence = await queue.find(ref)
    else:
        event = last.known_event
        job_sequence = event.job_sequence if isinstance(event, PendingEvent) else None
    if job_sequence is not None:
        await queue.delete(job_sequence)
