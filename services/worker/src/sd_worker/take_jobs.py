"""The worker's loop: it takes a job whenever the engine has room for one more."""

from __future__ import annotations

import asyncio
import contextlib

import nats.errors
import structlog

from sd_common.errors import Unavailable
from sd_worker.consume_jobs import JobConsumer
from sd_worker.delivery import Delivery
from sd_worker.engine_bridge import EngineBridge
from sd_worker.job_source import JobSource
from sd_worker.lone_tasks import LoneTasks

log = structlog.get_logger(__name__)

_PAUSE_S = 1.0
#: Jobs taken that have not ended: on the engine, or being stored. With the store away, it takes no more.
_MAX_RUNNING = 64


class JobTaker:
    """Takes jobs until it is told to stop."""

    def __init__(
        self, source: JobSource, engine: EngineBridge, lone_tasks: LoneTasks, consumer: JobConsumer, ack_wait_s: float
    ) -> None:
        self._source = source
        self._engine = engine
        self._lone_tasks = lone_tasks
        self._consumer = consumer
        self._ack_wait_s = ack_wait_s
        self._taking: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        #: Why no jobs can be taken at the moment.
        self._problem: str | None = None

    def start(self) -> None:
        """Take jobs from now on."""
        self._taking = asyncio.create_task(self._take_jobs(), name="take-jobs")

    async def stop(self) -> None:
        """Take no more jobs. Returns when no pull is open."""
        if self._taking is not None:
            while not self._taking.done():  # nats-py swallows a cancellation here and there
                self._taking.cancel()
                await asyncio.wait([self._taking], timeout=_PAUSE_S)
        with contextlib.suppress(nats.errors.Error):
            await self._source.close()

    async def wait_for_running(self, timeout_s: float) -> bool:
        """Return when all jobs that were taken have ended, or after `timeout_s`, and whether that is so."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        return not self._running

    async def end(self, timeout_s: float) -> bool:
        """As `wait_for_running`; NATS gives the jobs of tasks that still run to others after ack_wait."""
        has_ended = await self.wait_for_running(timeout_s)
        for running in self._running:
            running.cancel()
        return has_ended

    def missing(self) -> str | None:
        """Why no jobs can be taken at the moment; None where they can."""
        if self._taking is None or self._taking.done():
            return "the worker takes no jobs"
        return self._problem

    async def _take_jobs(self) -> None:
        while True:
            await self._lone_tasks.wait_while_one_is_alone()
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
            running = asyncio.create_task(self._consumer.consume(delivery, self._engine.expect()), name="run-job")
            self._running.add(running)
            running.add_done_callback(self._running.discard)
