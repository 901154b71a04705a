"""Events of whole tasks, and a listener to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from integration.common.makers import finished, new_ref, pending, started

from sd_common.logged_event import LoggedEvent
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog

#: Longer than anything takes here; a wait that exceeds it has failed.
_SOON_S = 60.0


class Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: LoggedEvent) -> None:
        self.events.append(event)
        self._changed.set()

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]

    async def until(self, sequence: int) -> None:
        await self._until(lambda: bool(self.events) and self.events[-1].sequence >= sequence)

    async def until_as_many(self, count: int) -> None:
        await self._until(lambda: len(self.events) >= count)

    async def _until(self, has_heard: Callable[[], bool]) -> None:
        async with asyncio.timeout(_SOON_S):
            while not has_heard():
                self._changed.clear()
                await self._changed.wait()


async def live(task_log: TaskLog, ref: TaskRef) -> int:
    """A task from its submission to its end; the sequence of its last event."""
    sequence = await task_log.append(ref, pending(ref), NO_EVENT)
    sequence = await task_log.append(ref, started(ref), sequence)
    return await task_log.append(ref, finished(ref), sequence)


async def append_lives(task_log: TaskLog, count: int) -> int:
    """One task after another."""
    return [await live(task_log, new_ref()) for _ in range(count)][-1]
