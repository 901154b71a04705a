"""Work that is given up at once when a worker runs out of time for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from sd_worker.errors import HandedBack

T = TypeVar("T")


class Abandonable:
    """Work of one kind, of many tasks."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Future[Any]] = set()
        self._is_over = False

    async def run(self, work: Awaitable[T]) -> T:
        """What `work` returns. Raises `HandedBack` where that is given up, or was before."""
        future = asyncio.ensure_future(work)
        self._under_way.add(future)
        if self._is_over:
            future.cancel()
        try:
            return await future
        except asyncio.CancelledError:
            raise HandedBack("the worker was told to stop") from None
        finally:
            self._under_way.discard(future)

    def give_up(self) -> None:
        """Give up what is under way, and what comes."""
        self._is_over = True
        for future in self._under_way:
            future.cancel()
