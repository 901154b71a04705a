"""Which tasks have not ended, and how many of each holder: a projection of the queue and the feed.

A job stays in JOBS until its task has ended, so reading JOBS tells all of them; the feed tells what changes from then
on, and this gateway's own submissions count before either tells. What neither told right is mended by the next reading.
The readings also take what no worker can be given off JOBS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import nats.errors
import structlog

from sd_common.errors import Unavailable
from sd_common.job_queue import JobQueue, Stray
from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.timed_wait import set_within
from sd_gateway.errors import TooManyUnfinishedTasks
from sd_gateway.event_feed import EventFeed
from sd_gateway.task_set import TaskSet, holder_of

log = structlog.get_logger(__name__)

#: Seconds between two readings of JOBS: a job that went away without an event counts for no longer.
REREAD_S = 60.0


class UnfinishedTasks:
    """Tasks that are queued or running, at most `max_per_holder` of each holder; 0 is no limit."""

    def __init__(self, client: NatsClient, queue: JobQueue, feed: EventFeed, max_per_holder: int) -> None:
        self._queue = queue
        self._max_per_holder = max_per_holder
        self._tasks = TaskSet()
        self._submitting = TaskSet()
        #: Begun since the last reading of JOBS was begun: it may have passed the place of their jobs by then.
        self._begun: set[TaskRef] = set()
        #: Ended since the last two readings were begun: jobs are acknowledged after the event, and may be read still.
        self._ended: tuple[set[TaskRef], set[TaskRef]] = set(), set()
        #: The last job in JOBS that was read.
        self._read_to = 0
        self._looking = asyncio.Lock()
        self._reread_now = asyncio.Event()
        self._rereading: asyncio.Task[None] | None = None
        feed.on_event(self._on_event)
        client.on_reconnect(self._on_reconnect)

    async def start(self) -> None:
        """Read what is there, and keep reading. May be tried again after `Unavailable`."""
        await self._read()
        self._rereading = asyncio.create_task(self._reread(), name="reread-unfinished-tasks")

    def stop(self) -> None:
        """Read no more."""
        if self._rereading is not None:
            self._rereading.cancel()

    @property
    def are_known(self) -> bool:
        """Whether they have been read."""
        return self._rereading is not None

    def count(self, holder: str) -> int:
        """How many tasks of the holder are queued or running, as far as this gateway knows."""
        tasks = self._tasks.of(holder)
        return len(tasks) + sum(ref not in tasks for ref in self._submitting.of(holder))

    async def find(self, user: str, task_id: str) -> TaskRef | None:
        """The user's task of this id, where it is queued or running.

        Reads the jobs that have come since the last reading, where it is not known: another gateway may have queued
        it, and no event has told. Raises `Unavailable`, also before the first reading.
        """
        if not self.are_known:
            raise Unavailable("The list of unfinished tasks")
        async with self._looking:
            if (known := self._known(user, task_id)) is not None:
                return known
            async for sequence, head in self._queue.heads(self._read_to + 1):
                self._read_to = max(self._read_to, sequence)
                if not isinstance(head, Stray):
                    self._begin(head.ref)
        return self._known(user, task_id)

    def _known(self, user: str, task_id: str) -> TaskRef | None:
        return self._tasks.find(user, task_id) or self._submitting.find(user, task_id)

    def num_tasks(self) -> int:
        """Those of all users, but for those that are being submitted. Any thread may call it."""
        return len(self._tasks)

    @contextlib.contextmanager
    def admitted(self, ref: TaskRef) -> Iterator[int]:
        """Count the task while it is submitted, and from then on unless that fails. Yields how many others of its
        holder counted before.

        Raises `TooManyUnfinishedTasks` at the limit. A task that counts already is admitted again.
        """
        counts_already = ref in self._tasks or ref in self._submitting
        num_others = self.count(holder_of(ref)) - counts_already
        if 0 < self._max_per_holder <= num_others and not counts_already:
            raise TooManyUnfinishedTasks(self._max_per_holder)
        self._submitting.add(ref)
        try:
            yield num_others
            self._begin(ref)
        finally:
            self._submitting.discard(ref)

    def _on_event(self, logged: LoggedEvent) -> None:
        ref = logged.ref
        if logged.is_terminal:
            self._ended[0].add(ref)
            self._tasks.discard(ref)
        else:
            self._begin(ref)

    def _begin(self, ref: TaskRef) -> None:
        if not any(ref in ended for ended in self._ended):
            self._tasks.add(ref)
            self._begun.add(ref)

    async def _on_reconnect(self) -> None:
        self._reread_now.set()

    async def _reread(self) -> None:
        while True:
            await set_within(self._reread_now, REREAD_S)
            self._reread_now.clear()
            try:
                await self._delete(await self._read())
            except (Unavailable, nats.errors.Error):
                log.warning("unfinished_tasks_not_read")  # the next reconnect, or the next minute, reads them
            except Exception:
                log.exception("unfinished_tasks_not_read")

    async def _read(self) -> list[Stray]:
        self._begun = set()
        self._ended = set(), self._ended[0]
        found = TaskSet()
        strays = []
        read_to = 0
        async for sequence, head in self._queue.heads():
            read_to = sequence
            if isinstance(head, Stray):
                strays.append(head)
            else:
                found.add(head.ref)
        self._read_to = read_to
        for ref in self._begun:
            found.add(ref)
        for ended in self._ended:
            for ref in ended:
                found.discard(ref)
        self._tasks = found
        return strays

    async def _delete(self, strays: Sequence[Stray]) -> None:
        # After the reading: whoever publishes them faster than they can be deleted must not keep it from its end.
        for stray in strays:
            await self._queue.delete(stray.sequence)
        if strays:
            log.warning("strays_deleted", num_strays=len(strays), subject=strays[0].subject)
