"""Jobs, one at a time, of whichever model is best taken next.

While there is nothing to do, one pull stays open for the model used last, so that its next job arrives at once; jobs of
other models are found by asking for the backlog a few times a second. While the worker is busy no pull is open, so that
jobs wait where any worker can have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from nats.aio.msg import Msg

from sd_common.job_queue import JobQueue
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import JOBS
from sd_worker.admission import Backlog, admission_order

log = structlog.get_logger(__name__)

#: Seconds between looks at the backlog while there is nothing to do. One look costs the server 0.5 ms.
_BACKLOG_INTERVAL_S = 0.25


class JobSource:
    """Takes jobs from the consumers of all models."""

    def __init__(
        self,
        client: NatsClient,
        queue: JobQueue,
        resident_models: Callable[[], Sequence[str]],
        swap_after_s: float,
    ) -> None:
        self._client = client
        self._queue = queue
        self._resident_models = resident_models
        self._swap_after_s = swap_after_s
        self._pullers: dict[str, Puller] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._tried_at: dict[str, float] = {}
        self._last_key: str | None = None

    async def next(self) -> Msg:
        """The next job. Safe to cancel. Raises `Unavailable` where NATS does not answer for long."""
        while True:
            for key in await self._order():
                if (job := await self._take_from(key)) is not None:
                    return job
            if self._last_key is None:
                await asyncio.sleep(_BACKLOG_INTERVAL_S)
            elif job := await (await self._puller(self._last_key)).next(_BACKLOG_INTERVAL_S):
                return job

    async def close(self) -> None:
        """Stop. A job that arrives meanwhile goes back to the queue."""
        self._close_all_but(None)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _order(self) -> list[str]:
        depths = await self._queue.depths()
        resident = [model_key(name) for name in self._resident_models()]
        others = [depth.model_key for depth in depths if depth.model_key != self._last_key]
        waits = dict(zip(others, await asyncio.gather(*map(self._queue.oldest_wait_s, others)), strict=True))
        # A job that was handed back, or whose worker was lost, has been given out once and shows in no wait. So a model
        # that this worker has not tried for long counts as waiting too; a try that finds nothing costs 0.3 ms.
        now = asyncio.get_running_loop().time()
        tried_at = {depth.model_key: self._tried_at.get(depth.model_key, now) for depth in depths}
        self._tried_at = tried_at
        backlogs = [
            Backlog(key.model_key, key.num_jobs, max(waits.get(key.model_key, 0.0), now - tried_at[key.model_key]))
            for key in depths
        ]
        return admission_order(backlogs, resident, self._swap_after_s)

    async def _take_from(self, key: str) -> Msg | None:
        self._tried_at[key] = asyncio.get_running_loop().time()
        job = await (await self._puller(key)).next_if_any()
        if job is not None:
            # The pull that is open for another model would bring a second job. Nothing is awaited here: a cancellation
            # would lose the job.
            self._close_all_but(key)
            self._last_key = key
        return job

    async def _puller(self, key: str) -> Puller:
        if key in self._pullers and self._pullers[key].was_refused:  # its consumer may have been deleted
            self._close(key)
        if key not in self._pullers:
            await self._queue.create_consumer(key)
            puller = Puller(self._client, JOBS, key)
            await puller.start()
            self._pullers[key] = puller
        return self._pullers[key]

    def _close_all_but(self, kept: str | None) -> None:
        for key in [key for key in self._pullers if key != kept]:
            self._close(key)

    def _close(self, key: str) -> None:
        closing = asyncio.create_task(self._pullers.pop(key).close(), name="close-puller")
        self._closing.add(closing)
        closing.add_done_callback(self._on_closed)

    def _on_closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.warning("closing_a_puller_failed", error=str(error) or type(error).__name__)
