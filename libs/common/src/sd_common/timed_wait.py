"""Wait for an `asyncio.Event`, but not for ever."""

from __future__ import annotations

import asyncio
import contextlib


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Return once `event` is set, or `timeout_s` seconds have passed, and whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()
