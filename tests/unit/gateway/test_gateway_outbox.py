"""What waits for a websocket client that reads slowly."""

from __future__ import annotations

import asyncio

import pytest

from sd_gateway.websocket import _Outbox


async def _drained(outbox: _Outbox, count: int) -> list[str]:
    return [await outbox.get() for _ in range(count)]


async def test_messages_come_out_in_order() -> None:
    outbox = _Outbox(10)
    for number in range(10):
        outbox.put(str(number))
    assert await _drained(outbox, 10) == [str(number) for number in range(10)]


async def test_a_reader_waits_until_there_is_something() -> None:
    outbox = _Outbox(10)
    reading = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    assert not reading.done()
    outbox.put("a")
    assert await reading == "a"


async def test_progress_is_dropped_first() -> None:
    outbox = _Outbox(4)
    for number in range(10):
        outbox.put_if_roomy(f"progress {number}")
    assert not outbox.is_full
    outbox.put("event 1")
    outbox.put("event 2")
    assert await _drained(outbox, 4) == ["progress 0", "progress 1", "event 1", "event 2"]


async def test_there_is_room_for_progress_again_once_the_client_has_read() -> None:
    outbox = _Outbox(4)
    for _ in range(10):
        outbox.put_if_roomy("progress")
    await _drained(outbox, 2)
    outbox.put_if_roomy("later")
    assert await outbox.get() == "later"


async def test_too_many_events_end_it_for_good() -> None:
    outbox = _Outbox(2)
    for _ in range(3):
        outbox.put("event")
    assert outbox.is_full
    for _ in range(2):
        with pytest.raises(asyncio.QueueFull):
            await outbox.get()


async def test_a_waiting_reader_is_told_at_once_when_it_is_too_much() -> None:
    outbox = _Outbox(1)
    reading = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    outbox.put("event")
    outbox.put("event")
    with pytest.raises(asyncio.QueueFull):
        await reading


async def test_a_reader_that_gives_up_loses_nothing() -> None:
    outbox = _Outbox(2)
    reading = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    reading.cancel()
    outbox.put("event")
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await outbox.get() == "event"
