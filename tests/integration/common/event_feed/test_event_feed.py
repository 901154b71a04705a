"""Events as a gateway hears them from a real nats-server: each once, in the order of the stream."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from integration.common.event_feed.listeners import Heard, live
from integration.common.makers import new_ref
from nats.js.errors import NoStreamResponseError

from sd_common.logged_event import LoggedEvent
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog
from sd_gateway.event_feed import EventFeed

pytestmark = pytest.mark.usefixtures("quick_retries")


async def test_events_come_in_order(heard: Heard, task_log: TaskLog) -> None:
    ref = new_ref()
    await asyncio.gather(*(live(task_log, new_ref()) for _ in range(99)))
    await heard.until(await live(task_log, ref))
    assert heard.sequences == list(range(1, 301))
    assert [event.event.event_type for event in heard.events if event.ref == ref] == ["pending", "started", "finished"]


async def test_a_listener_hears_its_session_and_its_task_alone(feed: EventFeed, task_log: TaskLog) -> None:
    mine, same_session, other_session, other_user = (
        new_ref("alice", "session-1"),
        new_ref("alice", "session-1"),
        new_ref("alice", "session-2"),
        new_ref("bob", "session-1"),
    )
    of_session, of_task, of_all_that_follows = Heard(), Heard(), Heard()
    with contextlib.ExitStack() as stack:
        stack.enter_context(feed.session_listener("alice", "session-1", of_session))
        stack.enter_context(feed.task_listener(mine, of_task))
        stack.enter_context(feed.task_listener(other_user, of_all_that_follows))
        for ref in (mine, same_session, other_session):
            await live(task_log, ref)
        last = await live(task_log, other_user)
        await of_all_that_follows.until(last)
    assert {event.ref for event in of_session.events} == {mine, same_session}
    assert {event.ref for event in of_task.events} == {mine}
    assert of_session.sequences == [1, 2, 3, 4, 5, 6]


async def test_a_listener_hears_nothing_of_the_tasks_of_others_with_the_same_id(
    feed: EventFeed, task_log: TaskLog
) -> None:
    mine, *others = [TaskRef(*whose, "invoice-17") for whose in (("alice", "a"), ("alice", "b"), ("bob", "a"))]
    heard = Heard()
    with feed.task_listener(mine, heard):
        for ref in (*others, mine):
            last = await live(task_log, ref)
        await heard.until(last)
    assert {event.ref for event in heard.events} == {mine}


async def test_a_listener_that_has_left_hears_nothing(feed: EventFeed, task_log: TaskLog) -> None:
    gone, there = Heard(), Heard()
    with feed.session_listener("alice", "session-1", there):
        with feed.session_listener("alice", "session-1", gone):
            first = await live(task_log, new_ref())
            await there.until(first)
        last = await live(task_log, new_ref())
        await there.until(last)
    assert gone.sequences == [1, 2, 3]
    assert feed._of_session == {}


async def test_a_listener_that_fails_harms_nobody_else(feed: EventFeed, task_log: TaskLog) -> None:
    """Such as one that reads an event of a later version."""

    def broken(event: LoggedEvent) -> None:
        raise RuntimeError("broken listener")

    ref = new_ref()
    heard = Heard()
    with (
        feed.session_listener("alice", "session-1", broken),
        feed.session_listener("alice", "session-1", heard),
        feed.task_listener(ref, broken),
    ):
        await heard.until(await live(task_log, ref))
    assert heard.sequences == [1, 2, 3]


async def test_messages_that_are_no_events_are_ignored(
    heard: Heard, task_log: TaskLog, nats_client: NatsClient
) -> None:
    await nats_client.publish("feed.alice.session-1.task", b"{}")
    await nats_client.publish("feed.alice", b"{}", headers={"Nats-Sequence": "1"})
    await nats_client.publish("feed.alice.session-1.task", b"{}", headers={"Nats-Sequence": "one"})
    await heard.until(await live(task_log, new_ref()))
    assert heard.sequences == [1, 2, 3]


@pytest.mark.parametrize("subject", ["events.alice.session-1.no!task", "events.a.b.c"])
async def test_a_stored_message_that_is_of_no_task_silences_nobody(
    heard: Heard, task_log: TaskLog, nats_client: NatsClient, subject: str
) -> None:
    """Whoever may publish events of one user may publish this."""
    await nats_client.jetstream().publish(subject, b"nonsense")
    await heard.until(await live(task_log, new_ref()))
    assert [event.sequence for event in heard.events if event.data != b"nonsense"] == [2, 3, 4]


@pytest.mark.parametrize("subject", ["events.alice", "events.alice.session-1.task.more"])
async def test_a_subject_that_no_task_can_have_is_not_stored(
    provisioned: NatsSettings, nats_client: NatsClient, subject: str
) -> None:
    with pytest.raises(NoStreamResponseError):
        await nats_client.jetstream().publish(subject, b"{}")


async def test_recent_events_are_those_of_the_session_in_order(
    feed: EventFeed, heard: Heard, task_log: TaskLog
) -> None:
    for _ in range(3):
        await live(task_log, new_ref("alice", "session-2"))
        last = await live(task_log, new_ref())
    await heard.until(last)
    assert [event.sequence for event in feed.recent.of_session("alice", "session-1", 5)] == [6, 10, 11, 12, 16, 17, 18]
    assert feed.recent.of_session("alice", "session-1", last) == feed.recent.of_session("bob", "session-1", 0) == []
