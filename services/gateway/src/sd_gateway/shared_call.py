"""A call that many requests wait for at once, and that is made for all of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class SharedCall:
    """Whoever asks while the call is under way waits for that one."""

    def __init__(self, call: Callable[[], Coroutine[None, None, None]], name: str) -> None:
        self._call = call
        self._name = name
        self._under_way: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None]:
        """The call under way, or a new one. Nobody has to wait for it."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._call(), name=self._name)
            # An error is told to those who wait, and to nobody where there are none.
            self._under_way.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._under_way

    async def wait(self) -> None:
        """Return when the call has ended. Raises what it does. A waiter that is cancelled does not end it for
        others."""
        await asyncio.shield(self.begin())
