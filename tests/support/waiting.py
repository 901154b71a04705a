"""Waiting for what nobody tells of: tests look, or ask, until it is so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

#: Longer than anything takes that tests wait for; a wait that exceeds it has failed.
PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.02
#: Others are asked, which costs them time.
_ASK_EVERY_S = 0.05

T = TypeVar("T")


async def until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    """Return when it is so. Raises `TimeoutError`."""
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_LOOK_EVERY_S)


async def once(ask: Callable[[], Awaitable[T]], is_so: Callable[[T], bool], within_s: float = PATIENCE_S) -> T:
    """The first answer of which `is_so` holds. Raises `TimeoutError`, with the last answer of which it did not."""
    last = "none"
    try:
        async with asyncio.timeout(within_s) as patience:
            while not is_so(answer := await ask()):
                last = str(answer)
                await asyncio.sleep(_ASK_EVERY_S)
            return answer
    except TimeoutError:
        if patience.expired():
            raise TimeoutError(f"After {within_s:g} s the last answer was: {last}") from None
        raise
