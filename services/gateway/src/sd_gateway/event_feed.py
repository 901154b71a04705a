"""Events as they are stored, handed to whoever in this gateway waits for them.

One subscription to all of `feed.>` and a dictionary cost half the CPU of a subscription per session. The sequences of
the stream are contiguous, so a gap, after a reconnect or where this process was too slow, is seen, and filled from the
log. A gap at the very end shows itself by no later event: so the end of the stream is looked at every few seconds too.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import TypeVar

import structlog
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.errors import Unavailable
from sd_common.logged_event import LoggedEvent, event_of_feed
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog
from sd_common.timed_wait import set_within
from sd_gateway.recent_events import RecentEvents

log = structlog.get_logger(__name__)

Listener = Callable[[LoggedEvent], None]
K = TypeVar("K")

#: Seconds after which the end of the stream is looked at, should nothing have told of a gap.
_LOOK_EVERY_S = 5.0
#: Pauses before the log is read again when it does not show yet what the stream has (a replica that lags), or is away.
_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 1.0
_NUM_RECENT = 2000


class EventFeed:
    """Listeners of all events, of a session's and of a task's. They are called in the order of the stream, and must not
    block."""

    def __init__(self, client: NatsClient, task_log: TaskLog) -> None:
        self._client = client
        self._task_log = task_log
        self._of_all: list[Listener] = []
        self._of_session: defaultdict[tuple[str, str], set[Listener]] = defaultdict(set)
        self._of_task: defaultdict[TaskRef, set[Listener]] = defaultdict(set)
        #: What was told lately, for those who have read the log up to the end that a lagging replica shows.
        self.recent = RecentEvents(_NUM_RECENT)
        self._last_sequence = 0
        self._highest_heard = 0
        self._stream_made_at: datetime | None = None
        self._may_be_behind = asyncio.Event()
        self._keeping_up: asyncio.Task[None] | None = None

    @property
    def is_started(self) -> bool:
        """Whether every event that is stored from now on will be told."""
        return self._keeping_up is not None

    async def start(self) -> None:
        """Recall what was stored lately, subscribe, then read what was stored in between: what comes later is not
        missed. May be tried again after `Unavailable`."""
        await self._recall()
        await self._client.subscribe(subjects.FEED, cb=self._on_feed)
        self._client.on_reconnect(self._on_reconnect)
        self._keeping_up = asyncio.create_task(self._keep_up(), name="feed-keep-up")

    def stop(self) -> None:
        """Tell no more of what has to be read from the log."""
        if self._keeping_up is not None:
            self._keeping_up.cancel()

    async def has_come_to(self, sequence: int) -> bool:
        """Whether the stream has an event of this sequence, or had. Raises `Unavailable`."""
        return sequence <= self._last_sequence or sequence <= await self._task_log.last_sequence()

    def on_event(self, listener: Listener) -> None:
        """Call `listener` with every event, for good."""
        self._of_all.append(listener)

    def session_listener(self, user: str, session: str, listener: Listener) -> AbstractContextManager[None]:
        """Call `listener` with every event of the session while inside."""
        return _registered(self._of_session, (user, session), listener)

    def task_listener(self, ref: TaskRef, listener: Listener) -> AbstractContextManager[None]:
        """Call `listener` with every event of the task while inside."""
        return _registered(self._of_task, ref, listener)

    async def _recall(self) -> None:
        """Fill `recent` with what this gateway has not told itself: the replica that answers its first websockets may
        lag, too."""
        extent = await self._task_log.extent()
        self._stream_made_at = extent.stream_made_at
        self._last_sequence = max(extent.oldest - 1, extent.newest - _NUM_RECENT, 0)
        self.recent.clear()
        async for sequence, event in self._task_log.replay_all(self._last_sequence + 1):
            self._last_sequence = sequence
            if event is not None:
                self.recent.add(event)
        if self._last_sequence < extent.newest:
            raise Unavailable("The end of the event log")

    async def _on_feed(self, message: Msg) -> None:
        try:
            event = event_of_feed(message)
        except ValueError:
            log.warning("feed_message_ignored", subject=message.subject)  # where it is stored, it makes a gap
            return
        self._highest_heard = max(self._highest_heard, event.sequence)
        if event.sequence == self._last_sequence + 1:
            self._tell(event)
        elif event.sequence > self._last_sequence:
            self._may_be_behind.set()

    async def _on_reconnect(self) -> None:
        self._may_be_behind.set()

    async def _keep_up(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._may_be_behind.clear()
            try:
                is_level = await self._catch_up()
            except Unavailable as error:
                log.warning("feed_catch_up_failed", error=str(error))
                is_level = False
            except Exception:
                log.exception("feed_catch_up_failed")
                is_level = False
            if is_level:
                pause_s = _FIRST_PAUSE_S
                await set_within(self._may_be_behind, _LOOK_EVERY_S)
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _catch_up(self) -> bool:
        """Tell what the log has and was not told, and return whether that is all that the stream has."""
        told = self._last_sequence
        extent = await self._task_log.extent()
        if extent.stream_made_at != self._stream_made_at:
            log.warning("stream_made_anew", last_sequence=told, newest=extent.newest)
            self._stream_made_at = extent.stream_made_at
            self._last_sequence = self._highest_heard = 0
            self.recent.clear()
            self._task_log.forget()
        self._last_sequence = max(self._last_sequence, extent.oldest - 1)  # what has aged out is not waited for
        self._highest_heard = max(self._highest_heard, extent.newest)
        if self._last_sequence < self._highest_heard:
            async for sequence, event in self._task_log.replay_all(self._last_sequence + 1):
                if event is not None:
                    self._tell(event)
                self._last_sequence = max(self._last_sequence, sequence)
            log.info("feed_gap_filled", since=told, last_sequence=self._last_sequence, newest=self._highest_heard)
        return self._last_sequence >= self._highest_heard

    def _tell(self, event: LoggedEvent) -> None:
        if event.sequence <= self._last_sequence:
            return
        self._last_sequence = event.sequence
        self.recent.add(event)
        self._task_log.note(event)
        ref = event.ref
        of_session, of_task = self._of_session.get((ref.user, ref.session), ()), self._of_task.get(ref, ())
        for listener in (*self._of_all, *of_session, *of_task):
            try:
                listener(event)
            except Exception:
                # Such as for an event of a later version: the other listeners, and the next events, are not to suffer.
                log.exception("listener_failed", task_id=ref.task_id, sequence=event.sequence)


@contextmanager
def _registered(listeners: defaultdict[K, set[Listener]], key: K, listener: Listener) -> Iterator[None]:
    listeners[key].add(listener)
    try:
        yield
    finally:
        listeners[key].discard(listener)
        if not listeners[key]:
            del listeners[key]
