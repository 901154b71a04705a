"""A task's beginning: its job onto JOBS, then `pending` into its log."""

from __future__ import annotations

import structlog

from sd_common.errors import SequenceConflict, TaskEnded, Unavailable
from sd_common.events import PendingEvent
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.lanes import Lane
from sd_common.task_log import NO_EVENT, TaskLog

log = structlog.get_logger(__name__)


async def queue_task(queue: JobQueue, task_log: TaskLog, job: Job, lane: Lane = "rest") -> None:
    """Queue `job`. When this returns, its task ends in exactly one terminal event.

    Raises `QueueFull`: nothing is queued then; and `Unavailable`, where nobody knows whether it is: the same job again
    is queued once.
    """
    job_sequence = await queue.publish(job, lane)
    try:
        await task_log.append(job.ref, PendingEvent(task_id=job.task_id, job_sequence=job_sequence), NO_EVENT)
    except (SequenceConflict, TaskEnded):
        pass  # a worker was first, and wrote `pending` itself
    except Unavailable:
        # The job is stored, so the task is accepted: the worker that takes it writes `pending`.
        log.warning("pending_event_left_to_worker", task_id=job.task_id)
