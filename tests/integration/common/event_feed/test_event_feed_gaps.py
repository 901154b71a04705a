"""Events that a gateway's feed did not hear, or that a server tells again: each is told once, in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from integration.common.event_feed.listeners import Heard, append_lives, live
from integration.common.makers import aborted, new_ref, pending

from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from sd_common.task_log import NO_EVENT, Extent, TaskLog
from sd_gateway.event_feed import EventFeed
from support.connections import connected
from support.servers import NatsServer

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_an_old_answer_about_the_stream_tells_nothing_again(
    quick_looks: None, heard: Heard, task_log: TaskLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a leader that was deposed while it stood still."""
    await heard.until(await append_lives(task_log, 5))
    extent = await task_log.extent()
    asked = asyncio.Event()

    async def old(log: TaskLog) -> Extent:
        asked.set()
        return replace(extent, newest=extent.newest - 3)

    with monkeypatch.context() as patched:
        patched.setattr(TaskLog, "extent", old)
        asked.clear()
        await asked.wait()
    await heard.until(await live(task_log, new_ref()))
    assert heard.sequences == list(range(1, 19))


async def test_a_gap_is_filled_from_the_log(
    feed: EventFeed, heard: Heard, task_log: TaskLog, listening: NatsClient, nats_client: NatsClient
) -> None:
    """Messages that this process was too slow for: here they come while it does not listen."""
    await heard.until(await live(task_log, new_ref()))
    await _unsubscribe(listening)
    await append_lives(task_log, 250)  # more than a batch
    await listening.subscribe("feed.>", cb=feed._on_feed)
    await listening.flush()
    await heard.until(await live(task_log, new_ref()))
    assert heard.sequences == list(range(1, 3 * 252 + 1))


async def test_a_gap_at_the_end_is_filled_without_a_further_event(
    quick_looks: None, heard: Heard, task_log: TaskLog, listening: NatsClient
) -> None:
    """Such as events whose republishing died with the leader of the stream."""
    await heard.until(await live(task_log, new_ref()))
    await _unsubscribe(listening)
    await heard.until(await live(task_log, new_ref()))
    assert heard.sequences == [1, 2, 3, 4, 5, 6]


async def test_what_has_aged_out_is_not_waited_for(
    feed: EventFeed, heard: Heard, task_log: TaskLog, listening: NatsClient, nats_client: NatsClient
) -> None:
    await heard.until(await live(task_log, new_ref()))
    await _unsubscribe(listening)
    last = await append_lives(task_log, 10)
    await nats_client.jetstream().purge_stream("EVENTS")
    await listening.subscribe("feed.>", cb=feed._on_feed)
    await listening.flush()
    await heard.until(await live(task_log, new_ref()))
    assert heard.sequences == [1, 2, 3, last + 1, last + 2, last + 3]


async def test_a_stream_that_is_made_anew_is_told_from_its_beginning(
    quick_looks: None, heard: Heard, task_log: TaskLog, nats_client: NatsClient
) -> None:
    await heard.until(await append_lives(task_log, 5))
    await nats_client.jetstream().delete_stream("EVENTS")
    await provision_streams(nats_client.jetstream(), StreamSettings(_env_file=None))
    await live(task_log, new_ref())
    await heard.until_as_many(18)
    assert heard.sequences == [*range(1, 16), 1, 2, 3]


async def _unsubscribe(listening: NatsClient) -> None:
    """The feed hears nothing from now on."""
    [subscription] = [entry for entry in listening._subs.values() if entry.subject == "feed.>"]
    await subscription.unsubscribe()
    await listening.flush()


async def test_nothing_is_missed_or_told_twice_when_the_server_is_killed(
    heard: Heard, task_log: TaskLog, nats_server: NatsServer
) -> None:
    """Another connection appends all the time; three times the server is killed and started again."""
    keep_on = True

    async def append() -> int:
        last = 0
        while keep_on:
            ref = new_ref()
            last = await task_log.append(ref, pending(ref), NO_EVENT)
            last = await task_log.append(ref, aborted(ref), last)
        return last

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
    heard: Heard, task_log: TaskLog, nats_server: NatsServer, provisioned: NatsSettings
) -> None:
    await heard.until(await live(task_log, new_ref()))
    nats_server.kill()
    nats_server.start()
    async with connected(provisioned, "early") as early:
        last = await live(TaskLog(early), new_ref())
    await heard.until(last)
    assert heard.sequences == [1, 2, 3, 4, 5, 6]
