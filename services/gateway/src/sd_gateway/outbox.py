"""What waits to be sent to one websocket client: bounded, and filled without waiting."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sd_common.logged_event import LoggedEvent


class Outbox:
    """Stored events in the order of the stream, and progress (bytes) between them.

    Progress is dropped first, of which `on_dropped` is told. A stored event that finds no room makes the outbox full:
    all that waits is given up, since it can be read from the log, and nothing more is taken until `begin_anew`.
    """

    def __init__(self, capacity: int, on_dropped: Callable[[int], object] = lambda num_dropped: None) -> None:
        self._capacity = capacity
        self._on_dropped = on_dropped
        self._messages: deque[LoggedEvent | bytes] = deque()
        self._filled = asyncio.Event()
        self.is_full = False

    def put(self, event: LoggedEvent) -> None:
        if (num_messages := len(self._messages)) >= self._capacity:
            self.drop_progress()
            self._on_dropped(num_messages - len(self._messages))
        if len(self._messages) >= self._capacity:
            self.is_full = True
            self._messages.clear()
        if not self.is_full:
            self._messages.append(event)
        self._filled.set()

    def put_if_roomy(self, progress: bytes) -> None:
        """The second half of the queue is kept for stored events."""
        if not self.is_full and len(self._messages) < self._capacity / 2:
            self._messages.append(progress)
            self._filled.set()
        else:
            self._on_dropped(1)

    def drop_progress(self) -> None:
        """Keep stored events alone."""
        self._messages = deque(message for message in self._messages if isinstance(message, LoggedEvent))

    def begin_anew(self) -> None:
        """Forget what waits, and take what comes from now on."""
        self._messages.clear()
        self.is_full = False

    async def get(self) -> LoggedEvent | bytes:
        """The next one, waited for. Raises `asyncio.QueueFull` where the outbox is full."""
        while not self._messages and not self.is_full:
            self._filled.clear()
            await self._filled.wait()
        if self.is_full:
            raise asyncio.QueueFull
        return self._messages.popleft()
