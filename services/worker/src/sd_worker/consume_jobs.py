"""One job: it is read, its task is run, and NATS is told what became of it.

The only place where errors become acknowledgements:

    the task has ended, here or elsewhere    ack
    handed back, or a part did not answer    nak: another try, by whichever worker
    another worker has started it            nothing: the job is that worker's
    only newer workers can read its events   nak
    not a job                                term, once its task is aborted
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import nats.errors
import structlog
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from sd_common.errors import TaskEnded, Unavailable
from sd_common.jobs import Job, JobHead
from sd_common.messages import now
from sd_common.subjects import TaskRef, parse_jobs_subject
from sd_common.tracing import continued_trace
from sd_worker.delivery import Delivery
from sd_worker.endings import Ending
from sd_worker.errors import HandedBack, LaterVersion, TaskLost
from sd_worker.job_spans import job_span, tell_ending
from sd_worker.metrics import WorkerMetrics
from sd_worker.publish_events import EventPublisher
from sd_worker.run_task import TaskHandler

log = structlog.get_logger(__name__)

#: Pause before a job is given out again whose parts did not answer, or that only newer workers can run.
_RETRY_DELAY_S = 5.0
#: Deliveries after which a job on which this code itself fails is given up.
_MAX_FAILED_DELIVERIES = 10


class JobConsumer:
    """Takes jobs to their acknowledgement, as many at once as it is asked to."""

    def __init__(self, handler: TaskHandler, events: EventPublisher, metrics: WorkerMetrics) -> None:
        self._handler = handler
        self._events = events
        self._metrics = metrics
        self._num_refused = 0

    async def consume(self, delivery: Delivery, has_come: Callable[[], None]) -> None:
        """Run the job to its end here; `has_come` is called when the engine has its task, or will not."""
        try:
            with continued_trace(delivery.headers):
                try:
                    job = Job.model_validate_json(delivery.data)
                except ValidationError as error:
                    await self._refuse(delivery, error)
                    return
                with bound_contextvars(task_id=job.task_id), job_span(job, delivery):
                    async with delivery.kept_in_progress():
                        await self._run(delivery, job, has_come)
        finally:
            has_come()

    async def _refuse(self, delivery: Delivery, error: ValidationError) -> None:
        """A job that cannot be read ends its task, where the task can be read."""
        reason = "The job cannot be read: " + "; ".join(
            f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors(include_input=False)
        )
        self._num_refused += 1
        self._metrics.unreadable_jobs.inc()
        log.error("not_a_job", subject=delivery.subject, reason=reason, num_refused=self._num_refused)
        try:
            with contextlib.suppress(TaskEnded):
                if (ref := _ref_of(delivery)) is not None:
                    await self._events.refuse(ref, delivery.job_sequence, "invalid_input", reason)
            await delivery.terminate()
        except LaterVersion as error:
            await _hand_back(delivery, error)
        except (Unavailable, nats.errors.Error):
            log.warning("refusal_not_told")  # delivered again, it is refused again

    async def _run(self, delivery: Delivery, job: Job, has_come: Callable[[], None]) -> None:
        started_at = asyncio.get_running_loop().time()
        waited_s = (now() - job.submitted_at).total_seconds()
        self._metrics.job_taken(parse_jobs_subject(delivery.subject).lane, delivery.number, waited_s)
        ending: Ending
        try:
            ending = await self._try(delivery, job, has_come)
        except (HandedBack, LaterVersion, Unavailable) as error:
            ending = "handed_back"
            await _hand_back(delivery, error)
        except TaskLost:
            ending = "lost"
        else:
            await _acknowledge(delivery)
        self._metrics.job_ended(job.parameters.params_type, ending)
        tell_ending(ending)
        log.info(
            "job",
            ending=ending,
            kind=job.parameters.params_type,
            model=job.parameters.model,
            user=job.user,
            delivery=delivery.number,
            ms=round(1000 * (asyncio.get_running_loop().time() - started_at)),
        )

    async def _try(self, delivery: Delivery, job: Job, has_come: Callable[[], None]) -> Ending:
        try:
            return await self._handler.run(job, delivery, has_come)
        except TaskEnded:
            return "had_ended"
        except (HandedBack, LaterVersion, TaskLost, Unavailable):
            raise
        except Exception as error:
            # A defect of ours. It may pass, or be of this process alone; but no task is tried for ever.
            log.exception("job_failed")
            if delivery.number < _MAX_FAILED_DELIVERIES:
                raise HandedBack(str(error)) from error
            with contextlib.suppress(TaskEnded):
                reason = "Something went wrong in the workers; the operator's log tells what"
                await self._events.refuse(job.ref, delivery.job_sequence, "internal", reason)
            return "given_up"


def _ref_of(delivery: Delivery) -> TaskRef | None:
    """Whose task a job is that cannot be read; None where that cannot be read either."""
    try:
        return JobHead.model_validate_json(delivery.data).ref
    except ValidationError:
        return None


async def _hand_back(delivery: Delivery, error: Exception) -> None:
    """Another worker may have the job; after a pause where it would fail there as well."""
    if isinstance(error, LaterVersion):
        log.warning("left_to_newer_workers", task_id=str(error))
    with contextlib.suppress(nats.errors.Error):
        await delivery.hand_back(None if isinstance(error, HandedBack) else _RETRY_DELAY_S)


async def _acknowledge(delivery: Delivery) -> None:
    try:
        await delivery.acknowledge()
    except (Unavailable, nats.errors.Error):
        # Delivered again, it is acknowledged then: its task has ended.
        log.warning("acknowledgement_lost")
