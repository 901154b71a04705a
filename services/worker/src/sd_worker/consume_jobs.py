"""The worker's loop: take a job when the engine has room, run its task, acknowledge.

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
from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common.errors import TaskEnded, Unavailable
from sd_common.jobs import Job, JobHead
from sd_common.logs import bound_task
from sd_common.messages import now
from sd_common.retries import retried_while_away
from sd_common.subjects import TaskRef, parse_jobs_subject
from sd_common.tracing import continued_trace
from sd_worker.company import Company
from sd_worker.delivery import Delivery
from sd_worker.engine_bridge import EngineBridge
from sd_worker.errors import HandedBack, LaterVersion, TaskLost
from sd_worker.job_source import JobSource
from sd_worker.job_spans import job_span, tell_ending
from sd_worker.metrics import Ending, WorkerMetrics
from sd_worker.publish_events import EventPublisher
from sd_worker.run_task import TaskHandler

log = structlog.get_logger(__name__)

#: Pause before a job is given out again whose parts did not answer, or that only newer workers can run.
_RETRY_DELAY_S = 5.0
_PAUSE_S = 1.0
#: Jobs taken that have not ended: on the engine, or being stored. With the store away, it takes no more.
_MAX_RUNNING = 64
#: Deliveries after which a job on which this code itself fails is given up.
_MAX_FAILED_DELIVERIES = 10


class JobConsumer:
    """Runs jobs until it is told to drain."""

    def __init__(
        self,
        source: JobSource,
        engine: EngineBridge,
        handler: TaskHandler,
        events: EventPublisher,
        company: Company,
        ack_wait_s: float,
        metrics: WorkerMetrics,
    ) -> None:
        self._metrics = metrics
        self._source = source
        self._engine = engine
        self._handler = handler
        self._events = events
        self._company = company
        self._num_refused = 0
        self._ack_wait_s = ack_wait_s
        self._taking: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        #: Why no jobs can be taken at the moment.
        self._problem: str | None = None

    def start(self) -> None:
        self._taking = asyncio.create_task(self._take_jobs(), name="take-jobs")

    async def drain(self, timeout_s: float) -> bool:
        """Take no more jobs, hand back those that have not begun, and wait until the others have ended. Returns whether
        they have within `timeout_s`."""
        self._handler.drain()
        if self._taking is not None:
            while not self._taking.done():  # nats-py swallows a cancellation here and there
                self._taking.cancel()
                await asyncio.wait([self._taking], timeout=_PAUSE_S)
        with contextlib.suppress(nats.errors.Error):
            await self._source.close()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        return not self._running

    def give_up_storing(self) -> None:
        """Hand back, from now on, also each task whose picture is made and not stored yet."""
        self._handler.give_up_storing()

    async def end(self, timeout_s: float) -> bool:
        """Return when no task runs any more, or after `timeout_s`, and whether that is so. NATS gives the jobs of those
        that still did to others after ack_wait."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        has_ended = not self._running
        for running in self._running:
            running.cancel()
        return has_ended

    def missing(self) -> str | None:
        """Why no jobs are taken; None where they are."""
        if self._taking is None or self._taking.done():
            return "the worker takes no more jobs"
        return self._problem

    async def _take_jobs(self) -> None:
        while True:
            await self._company.wait_while_one_is_alone()
            await self._engine.wait_for_room()
            if len(self._running) >= _MAX_RUNNING:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                message = await self._source.next()
            except Unavailable:
                log.warning("waiting_for_nats")
                continue
            except Exception as error:
                # A worker that stops taking jobs is of no use; what failed is told, and tried again.
                self._problem = (
                    f"jobs cannot be taken ({type(error).__name__}): has `python -m sd_common.provision` run?"
                )
                log.warning("taking_a_job_failed", exc_info=True)
                await asyncio.sleep(_PAUSE_S)
                continue
            self._problem = None
            delivery = Delivery(message, self._ack_wait_s)
            running = asyncio.create_task(self._consume(message, delivery, self._engine.expect()), name="run-job")
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def _consume(self, message: Msg, delivery: Delivery, has_come: Callable[[], None]) -> None:
        try:
            with continued_trace(message.headers):
                try:
                    job = Job.model_validate_json(message.data)
                except ValidationError as error:
                    await self._refuse(message, error)
                    return
                with bound_task(job.task_id), job_span(job, delivery):
                    async with delivery.kept_in_progress():
                        await self._run(message, delivery, job, has_come)
        finally:
            has_come()

    async def _refuse(self, message: Msg, error: ValidationError) -> None:
        """A job that cannot be read ends its task, where the task can be read."""
        reason = "The job cannot be read: " + "; ".join(
            f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors(include_input=False)
        )
        self._num_refused += 1
        self._metrics.unreadable_jobs.inc()
        log.error("not_a_job", subject=message.subject, reason=reason, num_refused=self._num_refused)
        try:
            with contextlib.suppress(TaskEnded):
                if (ref := _ref_of(message)) is not None:
                    await self._events.refuse(ref, message.metadata.sequence.stream, "invalid_input", reason)
            await message.term()
        except LaterVersion as error:
            await _give_back(message, error)
        except (Unavailable, nats.errors.Error):
            log.warning("refusal_not_told")  # delivered again, it is refused again

    async def _run(self, message: Msg, delivery: Delivery, job: Job, has_come: Callable[[], None]) -> None:
        started_at = asyncio.get_running_loop().time()
        waited_s = (now() - job.submitted_at).total_seconds()
        self._metrics.job_taken(parse_jobs_subject(delivery.subject).lane, delivery.number, waited_s)
        ending: Ending
        try:
            ending = await self._try(delivery, job, has_come)
        except (HandedBack, LaterVersion, Unavailable) as error:
            ending = "handed_back"
            await _give_back(message, error)
        except TaskLost:
            ending = "lost"
        else:
            await _acknowledge(message)
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


def _ref_of(message: Msg) -> TaskRef | None:
    """Whose task a job is that cannot be read; None where that cannot be read either."""
    try:
        return JobHead.model_validate_json(message.data).ref
    except ValidationError:
        return None


async def _give_back(message: Msg, error: Exception) -> None:
    """Another worker may have the job; after a pause where it would fail there as well."""
    if isinstance(error, LaterVersion):
        log.warning("left_to_newer_workers", task_id=str(error))
    with contextlib.suppress(nats.errors.Error):
        await message.nak(delay=None if isinstance(error, HandedBack) else _RETRY_DELAY_S)


async def _acknowledge(message: Msg) -> None:
    try:
        await retried_while_away(message.ack_sync)
    except (Unavailable, nats.errors.Error):
        # Delivered again, it is acknowledged then: its task has ended.
        log.warning("acknowledgement_lost")
