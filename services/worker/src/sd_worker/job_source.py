"""Jobs, one at a time, of whichever model is best taken next, from its lanes in turn.

While there is nothing to do, pulls stay open for all lanes of the model used last, so that a job of it arrives at once;
jobs of other models are found in the backlog, which workers tell each other a few times a second. While the worker has
no room for a task no pull is open, so that jobs wait where any worker can have them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from nats.aio.msg import Msg

from sd_common.backlog import LaneBacklog
from sd_common.job_queue import JobQueue
from sd_common.lanes import LANES
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.puller import next_of
from sd_common.subjects import ModelLane, parse_jobs_subject
from sd_common.timed_wait import set_within
from sd_worker.admission import Candidate, admission_order
from sd_worker.backlog_watch import BacklogWatch
from sd_worker.engine.reports import ModelsHere
from sd_worker.held_models import HeldModelsWatch
from sd_worker.lane_pullers import LanePullers
from sd_worker.lane_turns import LaneTurns
from sd_worker.spread import spread_s

#: Seconds after which a worker that was told of a model whose jobs all run tries it: one may have been handed back. The
#: worker that asked the server does at once. 1,000 idle workers cost 200 tries a second, 0.3 ms each.
_TRY_RUNNING_AFTER_S = 5.0
#: Seconds over which workers spread the taking of a job whose model they must load, so that one loads it.
_GIVE_WAY_S = 0.05


class JobSource:
    """Takes jobs from the consumers of all models."""

    def __init__(
        self,
        client: NatsClient,
        queue: JobQueue,
        models_here: Callable[[], ModelsHere],
        swap_after_s: float,
        worker: str | None = None,
        models: Sequence[str] = (),
    ) -> None:
        """`models`: names of those whose jobs are taken; without any, those of all."""
        worker = worker or secrets.token_hex(4)
        self._swap_after_s = swap_after_s
        self._own_keys = frozenset(map(model_key, models))
        self._backlog = BacklogWatch(client, queue, worker, self._on_news)
        self._held = HeldModelsWatch(client, worker, models_here)
        self._turns = LaneTurns()
        self._pullers = LanePullers(client, queue)
        self._tried_at: dict[str, float] = {}
        self._last_key: str | None = None
        self._news = asyncio.Event()
        self._waits_for_news = False

    async def next(self) -> Msg:
        """The next job. Safe to cancel. Raises `Unavailable` where NATS does not answer for long."""
        await self._backlog.start()
        await self._held.start()
        while True:
            job = await self._take() or await self._wait(self._backlog.asks_in_s(), for_news=True)
            if job is not None:
                return job

    async def close(self) -> None:
        """Stop. A job that arrives meanwhile goes back to the queue."""
        await self._held.stop()
        await self._backlog.stop()
        await self._pullers.end()

    async def _take(self) -> Msg | None:
        """A job that is there."""
        tried: set[str] = set()
        while True:
            backlog = await self._backlog.current()
            key = next((key for key in self._order(backlog) if key not in tried), None)
            if key is None:
                return None
            if key not in self._held.memory().held and self._held.knows_others():
                if (job := await self._wait(spread_s(_GIVE_WAY_S))) is not None:
                    return job
                if key not in self._order(await self._backlog.current()):
                    continue  # another worker is about to load it
            tried.add(key)
            if (job := await self._take_from(key, backlog)) is not None:
                return job

    def _order(self, backlog: Sequence[LaneBacklog]) -> list[str]:
        now = asyncio.get_running_loop().time()
        elsewhere = self._held.elsewhere()
        if self._own_keys:
            backlog = [lane for lane in backlog if lane.model_key in self._own_keys]
        self._tried_at = {lane.model_key: self._tried_at.get(lane.model_key, now) for lane in backlog}
        candidates = []
        for key in self._tried_at:
            lanes = [lane for lane in backlog if lane.model_key == key]
            wait_s = max(lane.oldest_wait_s for lane in lanes)
            if not any(lane.num_waiting for lane in lanes):
                # A job that was handed back, or whose worker was lost, has been given out once and shows in no wait. So
                # a model that this worker has not tried for long counts as waiting too.
                wait_s = now - self._tried_at[key]
                if wait_s < min(_TRY_RUNNING_AFTER_S, self._swap_after_s) and not self._backlog.is_own:
                    continue
            num_jobs = sum(lane.num_jobs for lane in lanes)
            candidates.append(Candidate(key, num_jobs, wait_s, key in elsewhere))
        return admission_order(candidates, self._held.memory(), self._swap_after_s)

    async def _take_from(self, key: str, backlog: Sequence[LaneBacklog]) -> Msg | None:
        self._tried_at[key] = asyncio.get_running_loop().time()
        num_waiting = {lane.model_lane: lane.num_waiting for lane in backlog if lane.model_key == key}
        is_held = key in self._held.memory().held
        self._pullers.have_consumers(num_waiting)  # the worker that told of their jobs has created them
        for lane in self._turns.order(key):
            # A worker that takes many a second must not wait for the next backlog to hear of somebody's first task. So
            # where jobs of a model wait that it holds, every lane is tried in its turn, which costs 0.3 ms. Of others,
            # which there may not even be, no consumers are made for lanes without jobs.
            if lane not in num_waiting and not (is_held and any(num_waiting.values())):
                continue
            puller = await self._pullers.open(lane)
            if puller is not None and (job := await puller.next_if_any()) is not None:
                self._note_taken(lane, job)
                return job
            self._backlog.found_none(lane)
        return None

    async def _wait(self, timeout_s: float, *, for_news: bool = False) -> Msg | None:
        """A job of the model used last, should one come within `timeout_s`, or before there is news of the backlog."""
        key = self._idle_key()
        if key is None:
            await self._sleep(timeout_s, for_news)
            return None
        opened = await asyncio.gather(*(self._pullers.open(ModelLane(key, lane)) for lane in LANES))
        pullers = [puller for puller in opened if puller is not None]
        if not pullers:
            await self._sleep(timeout_s, for_news)
            return None
        self._waits_for_news = for_news
        try:
            job = await next_of(pullers, timeout_s)
        finally:
            self._waits_for_news = False
        if job is not None:
            self._note_taken(parse_jobs_subject(job.subject), job)
        return job

    async def _sleep(self, timeout_s: float, for_news: bool) -> None:
        self._news.clear()
        self._waits_for_news = for_news
        await set_within(self._news, timeout_s)
        self._waits_for_news = False

    def _idle_key(self) -> str | None:
        """The model that pulls are kept open for: the one used last, while it is held and on the disk."""
        memory = self._held.memory()
        held = [key for key in memory.held if key not in memory.fetching]
        if self._last_key not in held:
            self._pullers.close_all()
            self._last_key = held[-1] if held else None
        return self._last_key

    def _note_taken(self, lane: ModelLane, job: Msg) -> None:
        # Nothing is awaited here: a cancellation would lose the job.
        self._pullers.close_others(lane)
        self._last_key = lane.model_key
        self._turns.took(lane)
        self._held.took(lane.model_key, job)
        self._backlog.took_one(lane)

    def _on_news(self) -> None:
        if self._waits_for_news:
            self._news.set()
            self._pullers.interrupt()
