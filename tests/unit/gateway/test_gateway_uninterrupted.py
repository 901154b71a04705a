"""Calls that go on where their waiter is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from sd_gateway.uninterrupted import uninterrupted


async def test_a_waiter_that_is_cancelled_waits_for_the_end() -> None:
    may_end = asyncio.Event()

    async def fail() -> None:
        await may_end.wait()
        raise ValueError("nobody is told")

    waiting = asyncio.create_task(uninterrupted(fail()))
    await asyncio.sleep(0)
    waiting.cancel()
    for _ in range(5):  # turns of the event loop
        await asyncio.sleep(0)
    assert not waiting.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_the_call_returns_or_raises_is_told() -> None:
    async def divide(number: int) -> float:
        return 1 / number

    assert await uninterrupted(divide(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        await uninterrupted(divide(0))
