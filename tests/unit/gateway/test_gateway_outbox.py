"""What waits for a websocket client that reads slowly."""

from __future__ import annotations

import asyncio

import pytest

from sd_common.logged_event import LoggedEvent
from sd_common.subjects import TaskRef
from sd_gateway.outbox import Outbox


def _event(sequence: int) -> LoggedEvent:
    return LoggedEvent(TaskRef("alice", "session", "task"), sequence, b"{}")


async def _drained(outbox: Outbox, count: int) -> list[int | bytes]:
    messages = [await outbox.get() for _ in range(count)]
    return [message if isinstance(message, bytes) else message.sequence for message in messages]


async def test_messages_come_out_in_order() -> None:
    outbox = Outbox(10)
    for number in range(10):
        outbox.put(_event(number))
    assert await _drained(outbox, 10) == list(range(10))


async def test_a_reader_waits_until_there_is_something() -> None:
    outbox = Outbox(10)
    reading = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    assert not reading.done()
    outbox.put(_event(1))
    assert await reading == _event(1)


async def test_half_of_the_room_is_kept_from_progress() -> None:
    outbox = Outbox(4)
    for number in range(10):
        outbox.put_if_roomy(b"progress %d" % number)
    outbox.put(_event(1))
    outbox.put(_event(2))
    assert await _drained(outbox, 4) == [b"progress 0", b"progress 1", 1, 2]


async def test_progress_is_dropped_before_a_stored_event_finds_no_room() -> None:
    outbox = Outbox(4)
    outbox.put(_event(1))
    outbox.put_if_roomy(b"progress")
    for sequence in (2, 3, 4):
        outbox.put(_event(sequence))
    assert not outbox.is_full
    assert await _drained(outbox, 4) == [1, 2, 3, 4]


async def test_there_is_room_for_progress_again_once_the_client_has_read() -> None:
    outbox = Outbox(4)
    for _ in range(10):
        outbox.put_if_roomy(b"progress")
    await _drained(outbox, 2)
    outbox.put_if_roomy(b"later")
    assert await outbox.get() == b"later"


async def test_too_many_events_end_it() -> None:
    outbox = Outbox(2)
    for sequence in range(4):
        outbox.put(_event(sequence))
    outbox.put_if_roomy(b"progress")
    assert outbox.is_full
    for _ in range(2):
        with pytest.raises(asyncio.QueueFull):
            await outbox.get()


async def test_one_that_begins_anew_has_what_comes_then() -> None:
    outbox = Outbox(2)
    for sequence in range(4):
        outbox.put(_event(sequence))
    outbox.begin_anew()
    outbox.put(_event(9))
    assert not outbox.is_full
    assert await outbox.get() == _event(9)


async def test_a_waiting_reader_is_told_at_once_when_it_is_too_much() -> None:
    outbox = Outbox(1)
    reading = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    outbox.put(_event(1))
    outbox.put(_event(2))
    with pytest.raises(asyncio.QueueFull):
        await reading


async def test_a_reader_that_gives_up_loses_nothing() -> None:
    outbox = Outbox(2)
    reading = asyncio.ensure_future(outbox.get())
    await asyncio.sleep(0)
    reading.cancel()
    outbox.put(_event(1))
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await outbox.get() == _event(1)


async def test_progress_that_is_not_sent_is_told() -> None:
    dropped: list[int] = []
    outbox = Outbox(4, dropped.append)
    for _ in range(5):
        outbox.put_if_roomy(b"progress")
    assert sum(dropped) == 3
    for sequence in range(3):
        outbox.put(_event(sequence))
    assert sum(dropped) == 5
    outbox.put_if_roomy(b"progress")
    outbox.drop_progress()  # that of tasks which have ended: nothing is missed
    assert sum(dropped) == 6
