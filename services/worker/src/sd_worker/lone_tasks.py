"""Which tasks may be under way beside others on this worker.

A task that kills its process takes the others down with it, and they would come again together. So one whose workers
were lost more than once is run alone: it may be the one that kills them (ADR 4).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

#: Attempts from which on a task runs alone. The second does not: of most lost workers no task was the cause.
ALONE_FROM_ATTEMPT = 3


def must_run_alone(attempt: int, max_attempts: int) -> bool:
    """Whether this attempt could be of a task that kills its workers. The last one always is alone, unless it is the
    first too."""
    return attempt > 1 and attempt >= min(ALONE_FROM_ATTEMPT, max_attempts)


class LoneTasks:
    """Who may be under way on a worker: many tasks beside each other, or a lone one."""

    def __init__(self) -> None:
        self._num_under_way = 0
        #: Tasks that are to run alone: they wait for that, or do.
        self._num_lone = 0
        self._is_one_alone = False
        self._is_over = False
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def under_way(self, *, alone: bool) -> AsyncIterator[None]:
        """Be under way while inside. Waits while another is alone; `alone`: while any other is under way."""
        self._num_lone += alone
        try:
            await self._wait_until(lambda: self._is_over or self._has_place(alone=alone))
            self._num_under_way += 1
            self._is_one_alone = alone
            try:
                yield
            finally:
                self._num_under_way -= 1
                self._is_one_alone = False
        finally:
            self._num_lone -= alone
            self._changed.set()

    async def wait_while_one_is_alone(self) -> None:
        """Return when no task runs alone here, or waits for that."""
        await self._wait_until(lambda: not self._num_lone)

    def end(self) -> None:
        """From now on nobody waits: they will find that nothing more is begun."""
        self._is_over = True
        self._changed.set()

    def _has_place(self, *, alone: bool) -> bool:
        return self._num_under_way == 0 if alone else not self._is_one_alone

    async def _wait_until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()
