"""A user's tasks, newest first, a page at a time.

No list is kept. A task stands where its first event, `pending`, stands in the log: so what is added, or goes on, moves
no task from one page to another. The log can only be read forwards. So a page counts the user's events from a sequence
on, to find a start with a bounded number of them before the page's end, and reads from there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from sd_common import subjects
from sd_common.auth_messages import PUBLIC_USER
from sd_common.events import PendingEvent
from sd_common.logged_event import LoggedEvent
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity

StateName = Literal["pending", "started", "finished", "aborted"]

#: What a page is read in: tasks of three events each, and some that were started again.
_EVENTS_PER_TASK = 6
_MIN_WINDOW_EVENTS = 60
_MAX_WINDOW_EVENTS = 600
#: Bounds the work of a page: a rare state is looked for among about a thousand tasks.
_MAX_WINDOWS = 5


@dataclass(frozen=True)
class TaskPage:
    """The last events of tasks, the newest task first, and the sequence before which the next page goes on."""

    tasks: list[LoggedEvent]
    next_before: int | None


class TaskPages:
    """Lists tasks."""

    def __init__(self, task_log: TaskLog) -> None:
        self._task_log = task_log

    async def page(self, identity: Identity, *, before: int | None, limit: int, state: StateName | None) -> TaskPage:
        """Up to `limit` tasks in `state`, of those that stand before the sequence `before`.

        There may be fewer though more follow. Raises `Unavailable`.
        """
        events = _events_of(identity)
        end = await self._task_log.last_sequence() + 1 if before is None else before
        num_window = _MAX_WINDOW_EVENTS if state else max(_MIN_WINDOW_EVENTS, _EVENTS_PER_TASK * limit)
        tasks: list[LoggedEvent] = []
        for _ in range(_MAX_WINDOWS):
            start = await self._window_start(events, end, num_window)
            queued = [event async for event in self._pending_events(events, start, end, num_window)]
            candidates = queued[::-1] if state else queued[::-1][: limit - len(tasks)]
            last = await self._task_log.last_of_tasks(event.ref for event in candidates)
            for event in candidates:
                shown = last.get(event.ref, event)  # a replica that lags may not know the task
                if state is None or shown.event_type == state:
                    tasks.append(shown)
                if len(tasks) == limit:
                    has_more = start > 1 or event is not queued[0]
                    return TaskPage(tasks, event.sequence if has_more else None)
            if start == 1:
                return TaskPage(tasks, None)
            end = start
        return TaskPage(tasks, end)

    async def _window_start(self, events: str, end: int, num_window: int) -> int:
        """A sequence from which on there are at most `num_window` of these events before `end`, and at least half of
        that; 1 where there are no more in all."""
        num_after = await self._task_log.num_events(events, end)
        low, high, reach = 1, end, num_window
        if await self._task_log.num_events(events, low) - num_after <= num_window:
            return low
        while high - low > 1:
            middle = max((low + high) // 2, end - reach)  # near the end first: that is counted quickly
            num = await self._task_log.num_events(events, middle) - num_after
            if num > num_window:
                low = middle
            elif num < num_window // 2:
                high = middle
            else:
                return middle
            reach *= 4
        return min(high, end - 1)

    async def _pending_events(self, events: str, start: int, end: int, num_window: int) -> AsyncIterator[LoggedEvent]:
        async for event in self._task_log.replay(events, start, num_at_once=num_window):
            if event.sequence >= end:
                return
            if event.event_type == "pending" and not _is_hand_back(event):
                yield event


def _is_hand_back(event: LoggedEvent) -> bool:
    known = event.known_event
    return isinstance(known, PendingEvent) and known.handed_back_by is not None


def _events_of(identity: Identity) -> str:
    """Everybody may be the public user: its sessions see their own tasks alone."""
    if identity.user == PUBLIC_USER:
        return subjects.events_of_session(identity.user, identity.session)
    return subjects.events_of_user(identity.user)
