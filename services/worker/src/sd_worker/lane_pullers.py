"""The pullers of the lanes that this worker takes jobs from, and whether these have their consumers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import JOBS, jobs_consumer_name
from sd_common.subjects import ModelLane

log = structlog.get_logger(__name__)


class LanePullers:
    """One puller a lane, made when it is asked for. `next_of` may wait for several of them."""

    def __init__(self, client: NatsClient, queue: JobQueue) -> None:
        self._client = client
        self._queue = queue
        self._pullers: dict[ModelLane, Puller] = {}
        self._heard = asyncio.Event()
        self._with_consumer: set[ModelLane] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def have_consumers(self, lanes: Iterable[ModelLane]) -> None:
        """The consumers of these lanes need not be created."""
        self._with_consumer.update(lanes)

    async def open(self, lane: ModelLane) -> Puller | None:
        """The lane's puller; None where the lane can have no consumer. Raises what `JobQueue.try_consumer` does."""
        if lane in self._pullers and self._pullers[lane].was_refused:  # its consumer may have been deleted
            self._close(lane)
            self._with_consumer.discard(lane)
        if lane not in self._with_consumer:
            if await self._queue.try_consumer(lane) is None:
                return None
            self._with_consumer.add(lane)
        if lane not in self._pullers:
            puller = Puller(self._client, JOBS, jobs_consumer_name(lane), self._heard)
            await puller.start()
            self._pullers[lane] = puller
        return self._pullers[lane]

    def interrupt(self) -> None:
        """End the wait for whichever of them."""
        for puller in self._pullers.values():
            puller.interrupt()

    def close_others(self, lane: ModelLane) -> None:
        """A job of `lane` was taken: pulls that are open for others would bring a second one. Returns at once."""
        # Closing costs 1 ms, so the model's lanes that were only tried stay for the next try.
        for other, puller in list(self._pullers.items()):
            if other != lane and (other.model_key != lane.model_key or puller.may_bring_a_job):
                self._close(other)

    def close_all(self) -> None:
        """Pull no more. Returns at once; jobs that arrive meanwhile go back to the queue."""
        for lane in list(self._pullers):
            self._close(lane)

    async def end(self) -> None:
        """Close all, and return when they are closed."""
        self.close_all()
        if self._closing:
            await asyncio.wait(self._closing)

    def _close(self, lane: ModelLane) -> None:
        closing = asyncio.create_task(self._pullers.pop(lane).close(), name="close-puller")
        self._closing.add(closing)
        closing.add_done_callback(self._on_closed)

    def _on_closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.warning("closing_a_puller_failed", error=str(error) or type(error).__name__)
