"""Calls that no cancellation ends, since threads do their work: what they hold is held until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(call: Coroutine[Any, Any, T]) -> T:
    """What `call` returns, or raises itself. A waiter that is cancelled is so once the call has ended."""
    calling = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        await asyncio.wait([calling])
        if not calling.cancelled():
            calling.exception()  # nobody else looks at it
        raise
