"""A gateway's feed, over a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from integration.common.event_feed.listeners import Heard
from integration.common.makers import new_ref

from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.task_log import TaskLog
from sd_gateway import event_feed
from sd_gateway.event_feed import EventFeed
from support.connections import connected


@pytest.fixture
async def listening(nats_settings: NatsSettings) -> AsyncIterator[NatsClient]:
    """The gateway's own connection: another one appends."""
    async with connected(nats_settings, "gateway") as client:
        yield client


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the stream is looked at all the time."""
    monkeypatch.setattr(event_feed, "_LOOK_EVERY_S", 0.05)


@pytest.fixture
async def feed(listening: NatsClient, task_log: TaskLog) -> AsyncIterator[EventFeed]:
    feed = EventFeed(listening, TaskLog(listening))
    await feed.start()
    yield feed
    feed.stop()


@pytest.fixture
def heard(feed: EventFeed) -> Iterator[Heard]:
    """What comes of the session of tasks that name no other."""
    heard, ref = Heard(), new_ref()
    with feed.session_listener(ref.user, ref.session, heard):
        yield heard
