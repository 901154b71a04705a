"""What a publisher hears of a task: each event once, in order, whatever its connection does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from integration.common.makers import aborted, finished, handed_back, new_ref, pending, started
from nats.js.errors import NotFoundError

from sd_common import follow_task as module
from sd_common import subjects
from sd_common.errors import EndOfLaterVersion, Unavailable
from sd_common.events import ProgressEvent, StoredEvent
from sd_common.follow_task import TaskFollower
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from support.nats_proxy import NatsProxy
from support.publisher import PUBLISHER, strict_nats_server
from support.servers import NatsServer, nats_settings_of

pytestmark = pytest.mark.usefixtures("quick_retries")

_SOON_S = 20.0


@pytest.fixture(autouse=True)
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence leads nobody to the log: what a test hears, the feed or a reconnect has told."""
    monkeypatch.setattr(module, "_FIRST_SILENCE_S", 3600.0)


@pytest.fixture
def nats_server() -> Iterator[NatsServer]:
    with strict_nats_server() as server:
        yield server


@pytest.fixture
async def task_log(nats_client: NatsClient, provisioned: NatsSettings) -> TaskLog:
    """What others append with."""
    return TaskLog(nats_client)


@pytest.fixture
async def proxy(nats_server: NatsServer, provisioned: NatsSettings) -> AsyncIterator[NatsProxy]:
    async with NatsProxy(nats_settings_of(nats_server, PUBLISHER)) as proxy:
        yield proxy


@pytest.fixture
async def following(proxy: NatsProxy) -> AsyncIterator[NatsClient]:
    """The publisher's connection, which can be cut."""
    client = await connect(proxy.settings, "publisher")
    yield client
    await client.shut()


class _Follower:
    """Follows a task in the background."""

    def __init__(self, client: NatsClient, ref: TaskRef, *, progress: bool = False) -> None:
        self.types: list[str] = []
        self._changed = asyncio.Event()
        self._following = asyncio.ensure_future(self._follow(client, ref, progress))

    async def _follow(self, client: NatsClient, ref: TaskRef, progress: bool) -> None:
        self.follower = TaskFollower(client, TaskLog(client, asks_leader=False), PUBLISHER)
        async for event in self.follower.follow(ref, progress=progress):
            self.types.append(event.event_type)
            self._changed.set()

    async def until(self, event_type: str) -> None:
        async with asyncio.timeout(_SOON_S):
            while event_type not in self.types:
                self._changed.clear()
                await self._changed.wait()

    async def to_the_end(self) -> list[str]:
        await asyncio.wait_for(self._following, _SOON_S)
        return self.types


def _new_ref() -> TaskRef:
    return new_ref(user=PUBLISHER)


async def _append(task_log: TaskLog, ref: TaskRef, events: list[StoredEvent], sequence: int = NO_EVENT) -> int:
    for event in events:
        sequence = await task_log.append(ref, event, sequence)
    return sequence


async def test_a_task_is_told_from_its_last_event_to_its_terminal_one(following: NatsClient, task_log: TaskLog) -> None:
    ref = _new_ref()
    sequence = await _append(task_log, ref, [pending(ref), started(ref)])
    follower = _Follower(following, ref)
    await follower.until("started")
    await _append(task_log, ref, [started(ref, attempt=2), finished(ref)], sequence)
    assert await follower.to_the_end() == ["started", "started", "finished"]


async def test_a_task_that_has_ended_is_its_end(following: NatsClient, task_log: TaskLog) -> None:
    ref = _new_ref()
    await _append(task_log, ref, [pending(ref), aborted(ref)])
    assert await _Follower(following, ref).to_the_end() == ["aborted"]


async def test_a_task_may_be_followed_before_there_is_any(following: NatsClient, task_log: TaskLog) -> None:
    ref, other = _new_ref(), _new_ref()
    follower = _Follower(following, ref, progress=True)
    with pytest.raises(NotFoundError):  # once this was answered, the questions of the follower were too
        await following.jetstream().get_last_msg("EVENTS", f"events.{PUBLISHER}.x.x", direct=True)
    await _append(task_log, other, [pending(other), aborted(other)])
    await _append(task_log, ref, [pending(ref), started(ref), finished(ref)])
    assert await follower.to_the_end() == ["pending", "started", "finished"]


@pytest.mark.parametrize("num_after", range(4))
async def test_events_that_are_stored_while_it_begins_are_told_once_and_in_order(
    num_after: int, following: NatsClient, task_log: TaskLog
) -> None:
    """They come by the feed, and the last of them by the log too."""
    refs = [_new_ref() for _ in range(20)]
    for ref in refs:
        sequence = await _append(task_log, ref, [pending(ref)])
        follower = _Follower(following, ref)
        for _ in range(num_after):
            await asyncio.sleep(0)
        await _append(task_log, ref, [started(ref), started(ref, 2), finished(ref)], sequence)
        told = await follower.to_the_end()
        assert told == ["pending", "started", "started", "finished"][-len(told) :]


async def test_each_event_is_told_once_across_reconnects(
    following: NatsClient, task_log: TaskLog, proxy: NatsProxy
) -> None:
    ref = _new_ref()
    follower = _Follower(following, ref)
    sequence = await _append(task_log, ref, [pending(ref)])
    await follower.until("pending")
    await proxy.cut()
    sequence = await _append(task_log, ref, [started(ref)], sequence)
    await proxy.mend()
    await follower.until("started")
    await proxy.cut()
    reconnected = asyncio.Event()

    async def note() -> None:
        reconnected.set()

    following.on_reconnect(note)
    await proxy.mend()
    await asyncio.wait_for(reconnected.wait(), _SOON_S)
    await _append(task_log, ref, [handed_back(ref), started(ref), finished(ref)], sequence)
    assert await follower.to_the_end() == ["pending", "started", "pending", "started", "finished"]


async def test_the_end_is_told_that_came_while_the_connection_was_away(
    following: NatsClient, task_log: TaskLog, proxy: NatsProxy
) -> None:
    ref = _new_ref()
    follower = _Follower(following, ref)
    sequence = await _append(task_log, ref, [pending(ref)])
    await follower.until("pending")
    await proxy.cut()
    await _append(task_log, ref, [started(ref), finished(ref)], sequence)
    await proxy.mend()
    assert await follower.to_the_end() == ["pending", "finished"]


async def test_the_log_is_read_where_the_feed_is_silent(
    following: NatsClient, task_log: TaskLog, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a message of the feed was lost on its way."""
    monkeypatch.setattr(module, "_FIRST_SILENCE_S", 0.05)
    monkeypatch.setattr(subjects, "feed_of_user", lambda user: "feed.internal.nobody.hears")
    ref = _new_ref()
    follower = _Follower(following, ref)
    sequence = await _append(task_log, ref, [pending(ref)])
    await follower.until("pending")
    await _append(task_log, ref, [aborted(ref)], sequence)
    assert await follower.to_the_end() == ["pending", "aborted"]


async def test_what_cannot_be_read_is_passed_over(
    following: NatsClient, task_log: TaskLog, nats_client: NatsClient
) -> None:
    """Events and progress of a later version."""
    ref = _new_ref()
    follower = _Follower(following, ref, progress=True)
    sequence = await _append(task_log, ref, [pending(ref)])
    await follower.until("pending")
    later = await nats_client.jetstream().publish(ref.events, b'{"event_type": "later"}')
    await nats_client.publish(ref.progress, b'{"event_type": "progress"}')
    step = ProgressEvent(task_id=ref.task_id, stage="denoising", step=1, steps=2)
    await nats_client.publish(ref.progress, step.model_dump_json().encode())
    await follower.until("progress")
    assert later.seq == sequence + 1
    await _append(task_log, ref, [aborted(ref)], later.seq)
    assert await follower.to_the_end() == ["pending", "progress", "aborted"]


@pytest.mark.parametrize("event_type", ["finished", "aborted"])
@pytest.mark.parametrize("is_heard", [True, False], ids=["heard on the feed", "read from the log"])
async def test_an_end_that_cannot_be_read_is_an_error_that_says_what_to_do(
    event_type: str, is_heard: bool, following: NatsClient, task_log: TaskLog, nats_client: NatsClient
) -> None:
    """No event follows it: a follower that passed it over would wait for ever."""
    ref = _new_ref()
    await _append(task_log, ref, [pending(ref)])
    end = b'{"v": 2, "event_type": "%s"}' % event_type.encode()
    if not is_heard:
        await nats_client.jetstream().publish(ref.events, end)
    follower = _Follower(following, ref)
    if is_heard:
        await follower.until("pending")
        await nats_client.jetstream().publish(ref.events, end)
    with pytest.raises(EndOfLaterVersion, match=f"{ref.task_id} has ended.*'{event_type}'.*: upgrade") as raised:
        await follower.to_the_end()
    assert (raised.value.task_id, raised.value.event_type) == (ref.task_id, event_type)
    assert follower.follower._of_task == {}


async def test_a_task_that_has_ended_leaves_nothing_behind(following: NatsClient, task_log: TaskLog) -> None:
    ref = _new_ref()
    await _append(task_log, ref, [pending(ref), aborted(ref)])
    follower = _Follower(following, ref, progress=True)
    await follower.to_the_end()
    assert follower.follower._of_task == {}
    assert following._reconnect_listeners == []
    assert len(following._subs) == 2  # of the feed, and of the answers to requests


async def test_who_follows_over_a_closed_connection_is_told(provisioned: NatsSettings, nats_server: NatsServer) -> None:
    client = await connect(nats_settings_of(nats_server, PUBLISHER), "closed")
    follower = TaskFollower(client, TaskLog(client, asks_leader=False), PUBLISHER)
    await follower.listen()
    await client.shut()
    for progress in (False, True):
        with pytest.raises(Unavailable):
            await anext(follower.follow(new_ref(), progress=progress))
