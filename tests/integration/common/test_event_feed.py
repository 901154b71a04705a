"""Events as a gateway hears them from a real nats-server: each once, in the order of the stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from integration.common.makers import aborted, finished, new_ref, pending, started
from nats.js.errors import NoStreamResponseError, NotFoundError

from sd_common.errors import Unavailable
from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, Extent, TaskLog
from sd_gateway import event_feed
from sd_gateway.event_feed import EventFeed
from support.servers import NatsServer

pytestmark = pytest.mark.usefixtures("quick_retries")

_SOON_S = 20.0


class _Heard:
    """A listener that can be waited for."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []
        self._changed = asyncio.Event()

    def __call__(self, event: LoggedEvent) -> None:
        self.events.append(event)
        self._changed.set()

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]

    async def until(self, sequence: int) -> None:
        async with asyncio.timeout(_SOON_S):
            while not self.events or self.events[-1].sequence < sequence:
                self._changed.clear()
                await self._changed.wait()

    async def until_as_many(self, count: int) -> None:
        async with asyncio.timeout(_SOON_S):
            while len(self.events) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def listening(nats_settings: NatsSettings) -> AsyncIterator[NatsClient]:
    """The gateway's own connection: another one appends."""
    client = await connect(nats_settings, "gateway")
    yield client
    await client.shut()


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the stream is looked at all the time."""
    monkeypatch.setattr(event_feed, "_LOOK_EVERY_S", 0.05)


@pytest.fixture
async def task_log(nats_client: NatsClient, provisioned: NatsSettings) -> TaskLog:
    return TaskLog(nats_client)


@pytest.fixture
async def feed(listening: NatsClient, task_log: TaskLog) -> AsyncIterator[EventFeed]:
    feed = EventFeed(listening, TaskLog(listening))
    await feed.start()
    yield feed
    feed.stop()


async def _live(task_log: TaskLog, ref: TaskRef) -> int:
    sequence = await task_log.append(ref, pending(ref), NO_EVENT)
    sequence = await task_log.append(ref, started(ref), sequence)
    return await task_log.append(ref, finished(ref), sequence)


async def test_events_come_in_order(feed: EventFeed, task_log: TaskLog) -> None:
    heard = _Heard()
    ref = new_ref()
    with feed.session_listener(ref.user, ref.session, heard):
        await asyncio.gather(*(_live(task_log, new_ref()) for _ in range(99)))
        last = await _live(task_log, ref)
        await heard.until(last)
    assert heard.sequences == list(range(1, 301))
    assert [event.event.event_type for event in heard.events if event.ref == ref] == ["pending", "started", "finished"]


async def test_a_listener_hears_its_session_and_its_task_alone(feed: EventFeed, task_log: TaskLog) -> None:
    mine, same_session, other_session, other_user = (
        new_ref("alice", "session-1"),
        new_ref("alice", "session-1"),
        new_ref("alice", "session-2"),
        new_ref("bob", "session-1"),
    )
    of_session, of_task, of_all_that_follows = _Heard(), _Heard(), _Heard()
    with contextlib.ExitStack() as stack:
        stack.enter_context(feed.session_listener("alice", "session-1", of_session))
        stack.enter_context(feed.task_listener(mine, of_task))
        stack.enter_context(feed.task_listener(other_user, of_all_that_follows))
        for ref in (mine, same_session, other_session):
            await _live(task_log, ref)
        last = await _live(task_log, other_user)
        await of_all_that_follows.until(last)
    assert {event.ref for event in of_session.events} == {mine, same_session}
    assert {event.ref for event in of_task.events} == {mine}
    assert of_session.sequences == [1, 2, 3, 4, 5, 6]


async def test_a_listener_that_has_left_hears_nothing(feed: EventFeed, task_log: TaskLog) -> None:
    gone, there = _Heard(), _Heard()
    with feed.session_listener("alice", "session-1", there):
        with feed.session_listener("alice", "session-1", gone):
            first = await _live(task_log, new_ref())
            await there.until(first)
        last = await _live(task_log, new_ref())
        await there.until(last)
    assert gone.sequences == [1, 2, 3]
    assert feed._of_session == {}


async def test_a_listener_that_fails_harms_nobody_else(feed: EventFeed, task_log: TaskLog) -> None:
    """Such as one that reads an event of a later version."""

    def broken(event: LoggedEvent) -> None:
        raise RuntimeError("broken listener")

    heard = _Heard()
    ref = new_ref()
    with (
        feed.session_listener("alice", "session-1", broken),
        feed.session_listener("alice", "session-1", heard),
        feed.task_listener(ref, broken),
    ):
        await heard.until(await _live(task_log, ref))
    assert heard.sequences == [1, 2, 3]


async def test_what_was_before_the_start_is_not_told_again(task_log: TaskLog, listening: NatsClient) -> None:
    """A gateway that starts while others are busy would tell a day's events again."""
    for _ in range(50):
        await _live(task_log, new_ref())
    feed = EventFeed(listening, TaskLog(listening))
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        appending = asyncio.ensure_future(_append_lives(task_log, 50))
        before = await task_log.last_sequence()
        await feed.start()
        last = await appending
        await heard.until(last)
    assert heard.sequences[0] > before
    assert heard.sequences == list(range(heard.sequences[0], last + 1))
    feed.stop()


async def _append_lives(task_log: TaskLog, count: int) -> int:
    return [await _live(task_log, new_ref()) for _ in range(count)][-1]


async def test_nothing_after_the_start_is_missed(task_log: TaskLog, listening: NatsClient) -> None:
    feed = EventFeed(listening, TaskLog(listening))
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await feed.start()
        last = await _live(task_log, new_ref())
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
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _live(TaskLog(nats_client), new_ref()))
    assert heard.sequences == [1, 2, 3]
    feed.stop()


async def test_messages_that_are_no_events_are_ignored(
    feed: EventFeed, task_log: TaskLog, nats_client: NatsClient
) -> None:
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await nats_client.publish("feed.alice.session-1.task", b"{}")
        await nats_client.publish("feed.alice", b"{}", headers={"Nats-Sequence": "1"})
        await nats_client.publish("feed.alice.session-1.task", b"{}", headers={"Nats-Sequence": "one"})
        await heard.until(await _live(task_log, new_ref()))
    assert heard.sequences == [1, 2, 3]


@pytest.mark.parametrize("subject", ["events.alice.session-1.no!task", "events.a.b.c"])
async def test_a_stored_message_that_is_of_no_task_silences_nobody(
    feed: EventFeed, task_log: TaskLog, nats_client: NatsClient, subject: str
) -> None:
    """Whoever may publish events of one user may publish this."""
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await nats_client.jetstream().publish(subject, b"nonsense")
        await heard.until(await _live(task_log, new_ref()))
    assert [event.sequence for event in heard.events if event.data != b"nonsense"] == [2, 3, 4]


@pytest.mark.parametrize("subject", ["events.alice", "events.alice.session-1.task.more"])
async def test_a_subject_that_no_task_can_have_is_not_stored(
    provisioned: NatsSettings, nats_client: NatsClient, subject: str
) -> None:
    with pytest.raises(NoStreamResponseError):
        await nats_client.jetstream().publish(subject, b"{}")


async def test_what_a_new_gateway_recalls_is_what_was_stored_lately(
    task_log: TaskLog, listening: NatsClient, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first websockets may be answered by a replica that lags."""
    monkeypatch.setattr(event_feed, "_NUM_RECENT", 10)
    await _append_lives(task_log, 5)
    await nats_client.jetstream().publish("events.alice.session-1.no!task", b"nonsense")
    feed = EventFeed(listening, task_log)
    await feed.start()
    assert [event.sequence for event in feed.recent.of_session("alice", "session-1", 0)] == list(range(7, 16))
    feed.stop()


async def test_a_feed_does_not_begin_before_its_replica_shows_all(
    task_log: TaskLog, listening: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await _append_lives(task_log, 5)
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


async def test_an_old_answer_about_the_stream_tells_nothing_again(
    quick_looks: None, feed: EventFeed, task_log: TaskLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a leader that was deposed while it stood still."""
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _append_lives(task_log, 5))
        extent = await task_log.extent()
        asked = asyncio.Event()

        async def old(log: TaskLog) -> Extent:
            asked.set()
            return replace(extent, newest=extent.newest - 3)

        with monkeypatch.context() as patched:
            patched.setattr(TaskLog, "extent", old)
            asked.clear()
            await asked.wait()
        await heard.until(await _live(task_log, new_ref()))
    assert heard.sequences == list(range(1, 19))


async def test_a_gap_is_filled_from_the_log(
    feed: EventFeed, task_log: TaskLog, listening: NatsClient, nats_client: NatsClient
) -> None:
    """Messages that this process was too slow for: here they come while it does not listen."""
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _live(task_log, new_ref()))
        await _unsubscribe(listening)
        await _append_lives(task_log, 250)  # more than a batch
        await listening.subscribe("feed.>", cb=feed._on_feed)
        await listening.flush()
        await heard.until(await _live(task_log, new_ref()))
    assert heard.sequences == list(range(1, 3 * 252 + 1))


async def test_a_gap_at_the_end_is_filled_without_a_further_event(
    quick_looks: None, feed: EventFeed, task_log: TaskLog, listening: NatsClient
) -> None:
    """Such as events whose republishing died with the leader of the stream."""
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _live(task_log, new_ref()))
        await _unsubscribe(listening)
        await heard.until(await _live(task_log, new_ref()))
    assert heard.sequences == [1, 2, 3, 4, 5, 6]


async def test_what_has_aged_out_is_not_waited_for(
    feed: EventFeed, task_log: TaskLog, listening: NatsClient, nats_client: NatsClient
) -> None:
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _live(task_log, new_ref()))
        await _unsubscribe(listening)
        last = await _append_lives(task_log, 10)
        await nats_client.jetstream().purge_stream("EVENTS")
        await listening.subscribe("feed.>", cb=feed._on_feed)
        await listening.flush()
        await heard.until(await _live(task_log, new_ref()))
    assert heard.sequences == [1, 2, 3, last + 1, last + 2, last + 3]


async def test_recent_events_are_those_of_the_session_in_order(feed: EventFeed, task_log: TaskLog) -> None:
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        for _ in range(3):
            await _live(task_log, new_ref("alice", "session-2"))
            last = await _live(task_log, new_ref())
        await heard.until(last)
    assert [event.sequence for event in feed.recent.of_session("alice", "session-1", 5)] == [6, 10, 11, 12, 16, 17, 18]
    assert feed.recent.of_session("alice", "session-1", last) == feed.recent.of_session("bob", "session-1", 0) == []


async def test_a_stream_that_is_made_anew_is_told_from_its_beginning(
    quick_looks: None, feed: EventFeed, task_log: TaskLog, nats_client: NatsClient
) -> None:
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _append_lives(task_log, 5))
        await nats_client.jetstream().delete_stream("EVENTS")
        await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None))
        await _live(task_log, new_ref())
        await heard.until_as_many(18)
    assert heard.sequences == [*range(1, 16), 1, 2, 3]


async def _unsubscribe(listening: NatsClient) -> None:
    """The feed hears nothing from now on."""
    [subscription] = [entry for entry in listening._subs.values() if entry.subject == "feed.>"]
    await subscription.unsubscribe()
    await listening.flush()


async def test_nothing_is_missed_or_told_twice_when_the_server_is_killed(
    feed: EventFeed, task_log: TaskLog, nats_server: NatsServer
) -> None:
    """Another connection appends all the time; three times the server is killed and started again."""
    heard = _Heard()
    keep_on = True

    async def append() -> int:
        last = 0
        while keep_on:
            ref = new_ref()
            last = await task_log.append(ref, pending(ref), NO_EVENT)
            last = await task_log.append(ref, aborted(ref), last)
        return last

    with feed.session_listener("alice", "session-1", heard):
        appending = [asyncio.ensure_future(append()) for _ in range(4)]
        for _ in range(3):
            await heard.until((heard.sequences or [0])[-1] + 50)
            nats_server.kill()
            nats_server.start()
        await heard.until(heard.sequences[-1] + 50)
        keep_on = False
        last = max(await asyncio.gather(*appending))
        await heard.until(last)
    assert heard.sequences == list(range(1, last + 1))


async def test_what_was_appended_before_this_process_was_back_is_told_without_a_further_event(
    feed: EventFeed, task_log: TaskLog, nats_server: NatsServer, provisioned: NatsSettings
) -> None:
    heard = _Heard()
    with feed.session_listener("alice", "session-1", heard):
        await heard.until(await _live(task_log, new_ref()))
        nats_server.kill()
        nats_server.start()
        early = await connect(provisioned, "early")
        try:
            last = await _live(TaskLog(early), new_ref())
        finally:
            await early.shut()
        await heard.until(last)
    assert heard.sequences == [1, 2, 3, 4, 5, 6]
