"""What a gateway's feed of events begins with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from integration.common.event_feed.listeners import Heard, append_lives, live
from integration.common.makers import new_ref
from nats.js.errors import NotFoundError

from sd_common.errors import Unavailable
from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from sd_common.task_log import TaskLog
from sd_gateway import event_feed
from sd_gateway.event_feed import EventFeed

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_what_was_before_the_start_is_not_told_again(task_log: TaskLog, listening: NatsClient) -> None:
    """A gateway that starts while others are busy would tell a day's events again."""
    await append_lives(task_log, 50)
    has_started = asyncio.Event()

    async def append_until_told() -> int:
        while not has_started.is_set():
            await live(task_log, new_ref())
        return await live(task_log, new_ref())

    feed = EventFeed(listening, TaskLog(listening))
    heard = Heard()
    with feed.session_listener("alice", "session-1", heard):
        appending = asyncio.ensure_future(append_until_told())
        before = await task_log.last_sequence()
        await feed.start()
        has_started.set()
        last = await appending
        await heard.until(last)
    assert heard.sequences[0] > before
    assert heard.sequences == list(range(heard.sequences[0], last + 1))
    feed.stop()


async def test_nothing_after_the_start_is_missed(task_log: TaskLog, listening: NatsClient) -> None:
    feed = EventFeed(listening, TaskLog(listening))
    heard = Heard()
    with feed.session_listener("alice", "session-1", heard):
        await feed.start()
        last = await live(task_log, new_ref())
        await heard.until(last)
    assert heard.sequences == [last - 2, last - 1, last]
    feed.stop()


async def test_a_start_that_failed_can_be_tried_again(nats_client: NatsClient, listening: NatsClient) -> None:
    feed = EventFeed(listening, TaskLog(listening))
    for _ in range(3):
        with pytest.raises(NotFoundError):
            await feed.start()
    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None))
    await feed.start()
    assert [subscription.subject for subscription in listening._subs.values()].count("feed.>") == 1
    heard = Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await live(TaskLog(nats_client), new_ref()))
    assert heard.sequences == [1, 2, 3]
    feed.stop()


async def test_what_a_new_gateway_recalls_is_what_was_stored_lately(
    task_log: TaskLog, listening: NatsClient, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first websockets may be answered by a replica that lags."""
    monkeypatch.setattr(event_feed, "_NUM_RECENT", 10)
    await append_lives(task_log, 5)
    await nats_client.jetstream().publish("events.alice.session-1.no!task", b"nonsense")
    feed = EventFeed(listening, task_log)
    await feed.start()
    assert [event.sequence for event in feed.recent.of_session("alice", "session-1", 0)] == list(range(7, 16))
    feed.stop()


async def test_a_feed_does_not_begin_before_its_replica_shows_all(
    task_log: TaskLog, listening: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await append_lives(task_log, 5)
    read = TaskLog.replay_all

    async def lagging(log: TaskLog, since: int) -> AsyncIterator[tuple[int, LoggedEvent | None]]:
        async for sequence, event in read(log, since):
            if sequence < last:
                yield sequence, event

    feed = EventFeed(listening, task_log)
    with monkeypatch.context() as patched:
        patched.setattr(TaskLog, "replay_all", lagging)
        with pytest.raises(Unavailable):
            await feed.start()
    assert not feed.is_started
    await feed.start()
    assert len(feed.recent.of_session("alice", "session-1", 0)) == last
    feed.stop()
