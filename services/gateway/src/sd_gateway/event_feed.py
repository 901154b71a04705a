"""Events as they are stored, handed to whoever in this gateway waits for them.

One subscription to all of `feed.>` and a dictionary cost half the CPU of a subscription per session. The sequences of
the stream are contiguous, so a gap, after a reconnect or where this process was too slow, is seen, and filled from the
log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import structlog
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.errors import SubjectError, Unavailable
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import LoggedEvent, TaskLog

log = structlog.get_logger(__name__)

Listener = Callable[[LoggedEvent], None]
K = TypeVar("K")

_SEQUENCE_HEADER = "Nats-Sequence"
#: Pause before the log is read again when it does not show yet what the feed told (a replica that lags).
_LAG_PAUSE_S = 0.05
_MAX_LAG_READS = 40


class EventFeed:
    """Listeners of all events, of a session's and of a task's. They are called in the order of the stream, and must not
    block."""

    def __init__(self, client: NatsClient, task_log: TaskLog) -> None:
        self._client = client
        self._task_log = task_log
        self._of_all: list[Listener] = []
        self._of_session: defaultdict[tuple[str, str], set[Listener]] = defaultdict(set)
        self._of_task: defaultdict[str, set[Listener]] = defaultdict(set)
        self._last_sequence = 0
        self._highest_heard = 0
        self._catching_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Note where the stream stands, subscribe, then read what was stored in between: what comes later is not
        missed. May be tried again after `Unavailable`."""
        self._last_sequence = await self._task_log.last_sequence()
        self._client.on_reconnect(self._on_reconnect)
        await self._client.subscribe(subjects.FEED, cb=self._on_feed)
        self._start_catching_up()

    def stop(self) -> None:
        """Give up catching up."""
        if self._catching_up is not None:
            self._catching_up.cancel()

    def on_event(self, listener: Listener) -> None:
        """Call `listener` with every event, for good."""
        self._of_all.append(listener)

    @contextlib.contextmanager
    def session_listener(self, user: str, session: str, listener: Listener) -> Iterator[None]:
        """Call `listener` with every event of the session while inside."""
        with _registered(self._of_session, (user, session), listener):
            yield

    @contextlib.contextmanager
    def task_listener(self, ref: TaskRef, listener: Listener) -> Iterator[None]:
        """Call `listener` with every event of the task while inside."""
        with _registered(self._of_task, ref.task_id, listener):
            yield

    async def _on_feed(self, message: Msg) -> None:
        try:
            _, ref = subjects.parse_task_subject(message.subject)
            sequence = int((message.headers or {})[_SEQUENCE_HEADER])
        except (SubjectError, KeyError, ValueError):
            log.warning("feed_message_ignored", subject=message.subject)
            return
        self._highest_heard = max(self._highest_heard, sequence)
        if self._catching_up is not None:
            return
        if sequence == self._last_sequence + 1:
            self._tell(LoggedEvent(ref, sequence, message.data))
        elif sequence > self._last_sequence:
            log.info("feed_gap", last_sequence=self._last_sequence, sequence=sequence)
            self._start_catching_up()

    async def _on_reconnect(self) -> None:
        self._start_catching_up()

    def _start_catching_up(self) -> None:
        if self._catching_up is None:
            self._catching_up = asyncio.create_task(self._catch_up(), name="feed-catch-up")

    async def _catch_up(self) -> None:
        try:
            for _ in range(_MAX_LAG_READS):
                stream_last = await self._task_log.last_sequence()
                if stream_last < self._last_sequence:  # the stream was made anew
                    self._last_sequence = self._highest_heard = 0
                async for event in self._replay():
                    self._tell(event)
                if self._last_sequence >= self._highest_heard:
                    return
                await asyncio.sleep(_LAG_PAUSE_S)
            log.warning("feed_gap_left", last_sequence=self._last_sequence, sequence=self._highest_heard)
            self._last_sequence = self._highest_heard
        except Unavailable:
            log.warning("feed_catch_up_failed")  # the next event, or the next reconnect, finds the gap again
        finally:
            self._catching_up = None

    def _replay(self) -> AsyncIterator[LoggedEvent]:
        return self._task_log.replay(subjects.EVENTS, self._last_sequence + 1)

    def _tell(self, event: LoggedEvent) -> None:
        if event.sequence <= self._last_sequence:
            return
        self._last_sequence = event.sequence
        ref = event.ref
        of_session, of_task = self._of_session.get((ref.user, ref.session), ()), self._of_task.get(ref.task_id, ())
        for listener in (*self._of_all, *of_session, *of_task):
            try:
                listener(event)
            except Exception:
                # Such as for an event of a later version: the other listeners, and the next events, are not to suffer.
                log.exception("listener_failed", task_id=ref.task_id, sequence=event.sequence)


@contextlib.contextmanager
def _registered(listeners: defaultdict[K, set[Listener]], key: K, listener: Listener) -> Iterator[None]:
    listeners[key].add(listener)
    try:
        yield
    finally:
        listeners[key].discard(listener)
        if not listeners[key]:
            del listeners[key]
