"""Wait for the end of a task."""

from __future__ import annotations

import asyncio

from sd_common.errors import EndOfLaterVersion, Unavailable
from sd_common.events import TerminalEvent
from sd_common.logged_event import LoggedEvent
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog
from sd_gateway.event_feed import EventFeed

#: Seconds after which the log is read, should the feed have stayed silent.
_RECHECK_S = 15.0


class TaskEnd:
    """The terminal event of a task that is about to be submitted."""

    def __init__(self, feed: EventFeed, task_log: TaskLog, ref: TaskRef) -> None:
        self._task_log = task_log
        self._ref = ref
        self._ended: asyncio.Future[LoggedEvent] = asyncio.get_running_loop().create_future()
        self._listening = feed.task_listener(ref, self._on_event)

    def __enter__(self) -> TaskEnd:
        self._listening.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.__exit__(None, None, None)

    async def wait(self) -> TerminalEvent:
        """Wait until the task has ended. Safe to cancel. Raises `EndOfLaterVersion`."""
        while not self._ended.done():
            await asyncio.wait([self._ended], timeout=_RECHECK_S)
            if not self._ended.done():
                await self._recheck()
        logged = self._ended.result()
        event = logged.known_event
        if not isinstance(event, TerminalEvent):
            raise EndOfLaterVersion(logged.ref.task_id, logged.event_type)
        return event

    async def _recheck(self) -> None:
        try:
            last = await self._task_log.last(self._ref)
        except Unavailable:
            return
        if last is not None:
            self._on_event(last)

    def _on_event(self, logged: LoggedEvent) -> None:
        if logged.is_terminal and not self._ended.done():
            self._ended.set_result(logged)
