"""The worker's loop: take a job when the engine has room, run its task, acknowledge.

The only place where errors become acknowledgements:

    ended, or lost to another worker that has ended it    ack
    handed back, or a part did not answer                 nak: another try, by whichever worker
    another worker has started it                         nothing: the job is that worker's
    not a job at all                                      term
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import nats.errors
import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common import subjects
from sd_common.errors import TaskEnded, Unavailable
from sd_common.jobs import Job
from sd_common.logs import bound_task
from sd_common.retries import retried_while_away
from sd_common.streams import ACK_WAIT_S
from sd_common.tracing import continued_trace
from sd_worker.errors import HandedBack, TaskLost
from sd_worker.job_source import JobSource
from sd_worker.run_task import TaskRunner

log = structlog.get_logger(__name__)

_IN_PROGRESS_INTERVAL_S = ACK_WAIT_S / 3
#: Pause before a job is given out again whose parts did not answer.
_RETRY_DELAY_S = 5.0
_PAUSE_S = 1.0


class JobConsumer:
    """Runs jobs until it is told to drain."""

    def __init__(self, source: JobSource, runner: TaskRunner) -> None:
        self._source = source
        self._runner = runner
        self._engine_free = asyncio.Event()
        self._engine_free.set()
        self._taking: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._taking = asyncio.create_task(self._take_jobs(), name="take-jobs")

    async def drain(self, timeout_s: float) -> bool:
        """Take no more jobs, and wait until those taken have ended. Returns whether they have within `timeout_s`."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait([self._taking])
        with contextlib.suppress(nats.errors.Error):
            await self._source.close()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        return not self._running

    async def wait_for_running(self) -> None:
        """Return when no task runs."""
        if self._running:
            await asyncio.wait(self._running)

    @property
    def is_taking(self) -> bool:
        return self._taking is not None and not self._taking.done()

    async def _take_jobs(self) -> None:
        while True:
            await self._engine_free.wait()
            try:
                message = await self._source.next()
            except Unavailable:
                log.warning("waiting_for_nats")
                continue
            except Exception:
                # A worker that stops taking jobs is of no use; what failed is told, and tried again.
                log.exception("taking_a_job_failed")
                await asyncio.sleep(_PAUSE_S)
                continue
            self._engine_free.clear()
            running = asyncio.create_task(self._consume(message), name="run-job")
            self._running.add(running)
            running.add_done_callback(self._on_consumed)

    def _on_consumed(self, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        self._engine_free.set()

    async def _consume(self, message: Msg) -> None:
        try:
            job = Job.model_validate_json(message.data)
            if subjects.jobs_of(job.parameters.model) != message.subject:
                raise ValueError(f"its model is '{job.parameters.model}'")
        except (ValidationError, ValueError) as error:
            log.error("not_a_job", subject=message.subject, error=str(error))
            await message.term()
            return
        with continued_trace(message.headers), bound_task(job.task_id):
            async with _kept_in_progress(message):
                await self._run(message, job)

    async def _run(self, message: Msg, job: Job) -> None:
        started_at = asyncio.get_running_loop().time()
        delivery = message.metadata.num_delivered
        ending = "ended"
        try:
            await self._runner.run(job, message.metadata.sequence.stream, self._engine_free)
        except TaskEnded:
            ending = "had_ended"
        except TaskLost:
            ending = "lost"
        except (HandedBack, Unavailable) as error:
            ending = "handed_back"
            delay_s = _RETRY_DELAY_S if isinstance(error, Unavailable) else None
            with contextlib.suppress(nats.errors.Error):
                await message.nak(delay=delay_s)
        except Exception:
            log.exception("job_failed")
            ending = "failed"
            with contextlib.suppress(nats.errors.Error):
                await message.nak(delay=_RETRY_DELAY_S)
        if ending in ("ended", "had_ended"):
            await _acknowledge(message)
        log.info(
            "job",
            ending=ending,
            kind=job.parameters.params_type,
            model=job.parameters.model,
            user=job.user,
            delivery=delivery,
            ms=round(1000 * (asyncio.get_running_loop().time() - started_at)),
        )


async def _acknowledge(message: Msg) -> None:
    try:
        await retried_while_away(message.ack_sync)
    except (Unavailable, nats.errors.Error):
        # Delivered again, it is acknowledged then: its task has ended.
        log.warning("acknowledgement_lost")


@contextlib.asynccontextmanager
async def _kept_in_progress(message: Msg) -> AsyncIterator[None]:
    """The server gives the job to nobody else while inside."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(_IN_PROGRESS_INTERVAL_S)
            with contextlib.suppress(nats.errors.Error):
                await message.in_progress()

    keeping = asyncio.create_task(keep(), name="keep-in-progress")
    try:
        yield
    finally:
        keeping.cancel()
