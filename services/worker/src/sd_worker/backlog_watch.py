"""What waits in the queue, from whichever worker asked the server last (ADR 9).

A worker that needs to know, and has heard of it from nobody for a while, asks the server and tells all. Idle workers
draw how long they wait for somebody else to ask, so that about one of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from sd_common import subjects
from sd_common.backlog import Backlog, LaneBacklog
from sd_common.job_queue import JobQueue
from sd_common.messages import now
from sd_common.nats_client import NatsClient
from sd_common.retries import retried_while_away
from sd_common.subjects import ModelLane
from sd_worker.spread import spread_s

log = structlog.get_logger(__name__)

#: What was told is good for this many seconds.
INTERVAL_S = 0.25
#: Seconds over which idle workers spread their asking. An answer takes 2 ms and more, which the others should hear.
_SPREAD_S = 0.1
#: Workers that are busy need not know, but gateways tell operators what waits: somebody asks after so many seconds, and
#: a few more.
_TOLD_EVERY_S = 5.0
_BUSY_SPREAD_S = 2.0
#: What was told longer ago than this is ignored: it may have lain in the buffer of a worker that was cut off.
_MAX_AGE = timedelta(seconds=5)


class BacklogWatch:
    """This worker's copy of the backlog. `on_news` is called when another worker has told it."""

    def __init__(self, client: NatsClient, queue: JobQueue, worker: str, on_news: Callable[[], None]) -> None:
        self._client = client
        self._queue = queue
        self._worker = worker
        self._on_news = on_news
        self._subscription: Subscription | None = None
        self._lanes: dict[ModelLane, LaneBacklog] = {}
        self._kept_at: float | None = None
        self._asks_after_s = INTERVAL_S
        self._is_own = False
        self._telling: asyncio.Task[None] | None = None
        #: By how much the server's clock is ahead of ours.
        self._server_ahead = timedelta(0)

    @property
    def is_own(self) -> bool:
        """Whether this worker asked the server for the copy itself."""
        return self._is_own

    async def start(self) -> None:
        """Listen. Idempotent. Raises `Unavailable`."""
        if self._subscription is None:
            self._subscription = await retried_while_away(
                lambda: self._client.subscribe(subjects.BACKLOG, cb=self._on_backlog)
            )
            self._telling = asyncio.create_task(self._tell_while_all_are_busy(), name="tell-backlog")

    async def stop(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()
            self._subscription = None

    async def current(self) -> list[LaneBacklog]:
        """What waits, at most `INTERVAL_S` old, asked for where nobody has told it. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        if self._kept_at is None or loop.time() - self._kept_at >= INTERVAL_S:
            backlog = await self._queue.backlog(self._worker)
            self._server_ahead = backlog.time - now()
            self._keep(backlog, is_own=True)
            with contextlib.suppress(nats.errors.Error):  # the others ask for themselves
                await self._client.publish(subjects.BACKLOG, backlog.model_dump_json().encode())
        kept_at = self._kept_at or 0.0
        return [_aged(lane, loop.time() - kept_at) for lane in self._lanes.values()]

    def asks_in_s(self) -> float:
        """Seconds until this worker, if idle, should ask itself."""
        if self._kept_at is None:
            return 0.0
        return max(self._kept_at + self._asks_after_s - asyncio.get_running_loop().time(), 0.0)

    def took_one(self, lane: ModelLane) -> None:
        """Correct the copy: a job of this lane has been taken. The others are taken to have come evenly since."""
        backlog = self._lanes.get(lane)
        if backlog is None or backlog.num_waiting <= 1:
            self.found_none(lane)
            return
        num_waiting = backlog.num_waiting - 1
        wait_s = backlog.oldest_wait_s * num_waiting / backlog.num_waiting
        self._lanes[lane] = backlog.model_copy(update={"num_waiting": num_waiting, "oldest_wait_s": wait_s})

    def found_none(self, lane: ModelLane) -> None:
        """Correct the copy: no job of this lane can be had."""
        self._lanes.pop(lane, None)

    async def _tell_while_all_are_busy(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TOLD_EVERY_S + spread_s(_BUSY_SPREAD_S))
            if self._kept_at is None or loop.time() - self._kept_at >= _TOLD_EVERY_S:
                try:
                    await self.current()
                except Exception as error:  # whoever needs a job meets it too
                    log.warning("backlog_not_told", error=str(error))

    def _keep(self, backlog: Backlog, *, is_own: bool) -> None:
        self._lanes = {lane.model_lane: lane for lane in backlog.lanes}
        self._kept_at = asyncio.get_running_loop().time()
        self._asks_after_s = INTERVAL_S + spread_s(_SPREAD_S)
        self._is_own = is_own

    async def _on_backlog(self, message: Msg) -> None:
        try:
            backlog = Backlog.model_validate_json(message.data)
        except ValidationError:
            log.warning("backlog_ignored", reason="not a backlog")
            return
        if backlog.worker == self._worker:
            return
        if abs(backlog.time - (now() + self._server_ahead)) > _MAX_AGE:
            log.warning("backlog_ignored", reason="of another time", worker=backlog.worker, time=str(backlog.time))
            return
        self._keep(backlog, is_own=False)
        self._on_news()


def _aged(lane: LaneBacklog, age_s: float) -> LaneBacklog:
    if not lane.num_waiting:
        return lane
    return lane.model_copy(update={"oldest_wait_s": lane.oldest_wait_s + age_s})
