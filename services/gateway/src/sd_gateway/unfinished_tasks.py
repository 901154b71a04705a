"""Which tasks of each user have not ended: a projection of the queue and the feed.

A job stays in JOBS until its task has ended, so reading JOBS tells all of them; the feed tells what changes from then
on, and this gateway's own submissions count before either tells. What neither told right is mended by the next reading.
The readings also take what no worker can be given off JOBS.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
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

log = structlog.get_logger(__name__)

#: Seconds between two readings of JOBS: a job that went away without an event counts for no longer.
REREAD_S = 60.0

Tasks = defaultdict[str, set[str]]


class UnfinishedTasks:
    """Task ids by user. `max_per_user` 0 is no limit."""

    def __init__(self, client: NatsClient, queue: JobQueue, feed: EventFeed, max_per_user: int) -> None:
        self._queue = queue
        self._max_per_user = max_per_user
        self._tasks: Tasks = defaultdict(set)
        self._submitting: Tasks = defaultdict(set)
        #: Begun since the last reading of JOBS was begun: it may have passed the place of their jobs by then.
        self._begun: Tasks = defaultdict(set)
        #: Ended since the last two readings were begun: jobs are acknowledged after the event, and may be read still.
        self._ended: tuple[set[str], set[str]] = set(), set()
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

    def count(self, user: str) -> int:
        """How many tasks of the user are queued or running, as far as this gateway knows."""
        return len(self._tasks.get(user, ())) + sum(
            task_id not in self._tasks.get(user, ()) for task_id in self._submitting.get(user, ())
        )

    def has(self, user: str, task_id: str) -> bool:
        """Whether the task is queued or running, as far as this gateway knows."""
        return any(task_id in tasks.get(user, ()) for tasks in (self._tasks, self._submitting))

    async def find(self, user: str, task_id: str) -> bool:
        """As `has`, once the jobs have been read that came since the last reading: another gateway may have queued it,
        and no event has told. Raises `Unavailable`, also before the first reading."""
        if not self.are_known:
            raise Unavailable("The list of unfinished tasks")
        async with self._looking:
            if not self.has(user, task_id):
                async for sequence, head in self._queue.heads(self._read_to + 1):
                    self._read_to = max(self._read_to, sequence)
                    if not isinstance(head, Stray):
                        self._begin(head.ref)
        return self.has(user, task_id)

    def num_tasks(self) -> int:
        """Those of all users, but for those that are being submitted. Any thread may call it."""
        return sum(map(len, list(self._tasks.values())))

    @contextlib.contextmanager
    def admitted(self, ref: TaskRef) -> Iterator[int]:
        """Count the task while it is submitted, and from then on unless that fails. Yields how many others of its user
        counted before.

        Raises `TooManyUnfinishedTasks` at the user's limit. A task that counts already is admitted again.
        """
        counts_already = self.has(ref.user, ref.task_id)
        num_others = self.count(ref.user) - counts_already
        if 0 < self._max_per_user <= num_others and not counts_already:
            raise TooManyUnfinishedTasks(self._max_per_user)
        self._submitting[ref.user].add(ref.task_id)
        try:
            yield num_others
            self._begin(ref)
        finally:
            _discard(self._submitting, ref.user, ref.task_id)

    def _on_event(self, logged: LoggedEvent) -> None:
        ref = logged.ref
        if logged.is_terminal:
            self._ended[0].add(ref.task_id)
            _discard(self._tasks, ref.user, ref.task_id)
        else:
            self._begin(ref)

    def _begin(self, ref: TaskRef) -> None:
        if not self._has_ended(ref.task_id):
            self._tasks[ref.user].add(ref.task_id)
            self._begun[ref.user].add(ref.task_id)

    def _has_ended(self, task_id: str) -> bool:
        return any(task_id in ended for ended in self._ended)

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
        self._begun = defaultdict(set)
        self._ended = set(), self._ended[0]
        found: Tasks = defaultdict(set)
        strays = []
        read_to = 0
        async for sequence, head in self._queue.heads():
            read_to = sequence
            if isinstance(head, Stray):
                strays.append(head)
            else:
                found[head.user].add(head.task_id)
        self._read_to = read_to
        for user, task_ids in self._begun.items():
            found[user] |= task_ids
        self._tasks = defaultdict(set)
        for user, task_ids in found.items():
            if unfinished := {task_id for task_id in task_ids if not self._has_ended(task_id)}:
                self._tasks[user] = unfinished
        return strays

    async def _delete(self, strays: Sequence[Stray]) -> None:
        # After the reading: whoever publishes them faster than they can be deleted must not keep it from its end.
        for stray in strays:
            await self._queue.delete(stray.sequence)
        if strays:
            log.warning("strays_deleted", num_strays=len(strays), subject=strays[0].subject)


def _discard(tasks: Tasks, user: str, task_id: str) -> None:
    if user in tasks:
        tasks[user].discard(task_id)
        if not tasks[user]:
            del tasks[user]
