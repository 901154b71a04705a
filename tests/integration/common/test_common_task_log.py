"""The life of tasks in EVENTS, with compare-and-set, on a real nats-server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from integration.common.makers import aborted, finished, new_ref, pending, started
from nats.aio.msg import Msg

from sd_common.errors import SequenceConflict, TaskEnded
from sd_common.events import AbortedEvent
from sd_common.logged_event import LoggedEvent
from sd_common.metrics import ProcessMetrics
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from sd_common.tracing import continued_trace
from support.connections import connected
from support.metrics import Page

_TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


async def _all(events: AsyncIterator[LoggedEvent]) -> list[LoggedEvent]:
    return [event async for event in events]


async def test_a_task_goes_its_way(task_log: TaskLog) -> None:
    ref = new_ref()
    assert await task_log.last(ref) is None
    sequence = NO_EVENT
    for event in (pending(ref), started(ref), finished(ref)):
        sequence = await task_log.append(ref, event, sequence)
        last = await task_log.last(ref)
        assert last is not None
        assert (last.ref, last.sequence, last.event) == (ref, sequence, event)
    assert await task_log.last_sequence() == sequence


async def test_events_are_counted_by_whoever_appended_them(nats_client: NatsClient, provisioned: NatsSettings) -> None:
    first, second = ProcessMetrics(), ProcessMetrics()
    log_of_first, log_of_second = TaskLog(nats_client, first.tasks), TaskLog(nats_client, second.tasks)
    ref = new_ref()
    sequence = await log_of_first.append(ref, pending(ref), NO_EVENT)
    with pytest.raises(SequenceConflict):
        await log_of_second.append(ref, started(ref), NO_EVENT)
    sequence = await log_of_second.append(ref, started(ref), sequence)
    await log_of_first.append(ref, aborted(ref), sequence)
    with pytest.raises(TaskEnded):
        await log_of_second.append(ref, finished(ref), sequence)

    def counts(metrics: ProcessMetrics) -> list[float]:
        page = Page.of(metrics.registry)
        counts = [page.value("sd_task_events_total", event_type=name) for name in ("pending", "started", "finished")]
        aborted_ones = page.value("sd_task_events_total", event_type="aborted", code="cancelled")
        return [*counts, aborted_ones, page.value("sd_task_event_conflicts_total")]

    assert counts(first) == [1, 0, 0, 1, 0]
    assert counts(second) == [0, 1, 0, 0, 2]


async def test_the_trace_is_handed_on_with_an_event(task_log: TaskLog, nats_client: NatsClient) -> None:
    ref = new_ref()
    with continued_trace(_TRACE):
        sequence = await task_log.append(ref, pending(ref), NO_EVENT)
    stored = await nats_client.jetstream().get_msg("EVENTS", seq=sequence)
    assert stored.headers is not None
    assert stored.headers["traceparent"] == _TRACE["traceparent"]


async def test_an_append_that_comes_second_is_told_so(task_log: TaskLog) -> None:
    ref = new_ref()
    first = await task_log.append(ref, pending(ref), NO_EVENT)
    with pytest.raises(SequenceConflict):
        await task_log.append(ref, started(ref), NO_EVENT)
    second = await task_log.append(ref, started(ref), first)
    with pytest.raises(SequenceConflict):
        await task_log.append(ref, finished(ref), first)
    assert [event.sequence for event in await _all(task_log.replay(ref.events, 1))] == [first, second]


async def test_an_append_that_expects_what_never_was_is_refused(task_log: TaskLog) -> None:
    ref = new_ref()
    with pytest.raises(SequenceConflict):
        await task_log.append(ref, started(ref), 7)
    assert await task_log.last(ref) is None


@pytest.mark.parametrize("end", [finished, aborted])
async def test_nothing_follows_the_end_of_a_task(end: type, task_log: TaskLog) -> None:
    ref = new_ref()
    first = await task_log.append(ref, pending(ref), NO_EVENT)
    last = await task_log.append(ref, end(ref), first)
    for event in (started(ref), finished(ref, worker="another"), aborted(ref)):
        with pytest.raises(TaskEnded) as raised:
            await task_log.append(ref, event, first)
        assert raised.value.task_id == ref.task_id
        assert raised.value.event_type == end(ref).event_type
    assert (await task_log.last_of_user(ref.user, ref.task_id)) == await task_log.last(ref)
    assert await task_log.last_sequence() == last


async def test_other_tasks_do_not_come_between(task_log: TaskLog) -> None:
    ref, other = new_ref(), new_ref()
    first = await task_log.append(ref, pending(ref), NO_EVENT)
    await task_log.append(other, pending(other), NO_EVENT)
    assert await task_log.append(ref, started(ref), first) == first + 2


async def test_an_append_whose_answer_was_lost_is_answered_when_it_is_tried_again(task_log: TaskLog) -> None:
    ref = new_ref()
    first = await task_log.append(ref, pending(ref), NO_EVENT)
    event = finished(ref)
    assert await task_log.append(ref, event, first) == await task_log.append(ref, event, first) == first + 1
    assert await task_log.last_sequence() == first + 1


async def test_of_appends_at_once_one_lands(task_log: TaskLog) -> None:
    ref = new_ref()
    first = await task_log.append(ref, pending(ref), NO_EVENT)
    results = await asyncio.gather(
        *(task_log.append(ref, finished(ref, worker=f"worker-{number}"), first) for number in range(50)),
        return_exceptions=True,
    )
    assert [result for result in results if isinstance(result, int)] == [first + 1]
    assert sum(isinstance(result, TaskEnded) for result in results) == 49


async def test_a_refused_append_is_not_in_the_feed(
    task_log: TaskLog, nats_client: NatsClient, provisioned: NatsSettings
) -> None:
    """A core subscriber of `events.>` would see it."""
    heard: list[tuple[str, int]] = []
    marker_heard = asyncio.Event()
    ref, marker = new_ref(), new_ref()

    async def on_feed(message: Msg) -> None:
        heard.append((message.subject, int((message.headers or {})["Nats-Sequence"])))
        if message.subject.endswith(marker.task_id):
            marker_heard.set()

    async with connected(provisioned, "listening") as listening:
        await listening.subscribe("feed.>", cb=on_feed)
        await listening.flush()
        first = await task_log.append(ref, pending(ref), NO_EVENT)
        with pytest.raises(SequenceConflict):
            await task_log.append(ref, started(ref), NO_EVENT)
        second = await task_log.append(ref, aborted(ref), first)
        with pytest.raises(TaskEnded):
            await task_log.append(ref, finished(ref), first)
        third = await task_log.append(marker, pending(marker), NO_EVENT)
        await asyncio.wait_for(marker_heard.wait(), 10)
    feed = ref.events.replace("events.", "feed.", 1)
    assert heard == [(feed, first), (feed, second), (marker.events.replace("events.", "feed.", 1), third)]


async def test_a_users_task_is_found_whatever_its_session_and_nobody_elses(task_log: TaskLog) -> None:
    ref = new_ref(user="alice", session="session-1")
    sequence = await task_log.append(ref, pending(ref), NO_EVENT)
    last = await task_log.append(ref, started(ref), sequence)
    found = await task_log.last_of_user("alice", ref.task_id)
    assert found is not None
    assert (found.ref, found.sequence) == (ref, last)
    assert await task_log.last_of_user("bob", ref.task_id) is None
    assert await task_log.last_of_user("alice", new_ref().task_id) is None


async def test_events_are_shown_with_their_sequence(task_log: TaskLog) -> None:
    ref = new_ref()
    event = pending(ref)
    sequence = await task_log.append(ref, event, NO_EVENT)
    last = await task_log.last(ref)
    assert last is not None
    assert json.loads(last.shown()) == {"sequence": sequence, **event.model_dump(mode="json")}


# Replay


async def _append_many(task_log: TaskLog, refs: list[TaskRef]) -> list[int]:
    return list(await asyncio.gather(*(task_log.append(ref, pending(ref), NO_EVENT) for ref in refs)))


async def test_a_replay_of_nothing_ends(task_log: TaskLog) -> None:
    assert await _all(task_log.replay("events.>", 0)) == []
    assert await _all(task_log.replay("events.>", 1000)) == []


@pytest.mark.parametrize("count", [499, 500, 501, 1203])
async def test_a_replay_has_every_event_once_and_in_order(count: int, task_log: TaskLog) -> None:
    """Batches are of 500."""
    refs = [new_ref(session=f"session-{number % 2}") for number in range(count)]
    sequences = await _append_many(task_log, refs)
    replayed = await _all(task_log.replay("events.>", 0))
    assert [event.sequence for event in replayed] == list(range(1, count + 1))
    assert {event.ref: event.sequence for event in replayed} == dict(zip(refs, sequences, strict=True))
    of_session = await _all(task_log.replay("events.alice.session-0.*", 0))
    assert [event for event in replayed if event.ref.session == "session-0"] == of_session


async def test_a_replay_begins_where_it_is_told_to(task_log: TaskLog) -> None:
    await _append_many(task_log, [new_ref() for _ in range(20)])
    assert [event.sequence for event in await _all(task_log.replay("events.>", 15))] == list(range(15, 21))
    assert [event.sequence for event in await _all(task_log.replay("events.>", 20))] == [20]
    assert await _all(task_log.replay("events.>", 21)) == []


async def test_a_replay_has_what_is_appended_meanwhile(task_log: TaskLog) -> None:
    await _append_many(task_log, [new_ref() for _ in range(600)])
    seen: list[int] = []
    async for event in task_log.replay("events.>", 1):
        if not seen:
            await _append_many(task_log, [new_ref() for _ in range(600)])
        seen.append(event.sequence)
    assert seen == list(range(1, 1201))


async def test_a_replay_passes_over_what_was_deleted(task_log: TaskLog, nats_client: NatsClient) -> None:
    await _append_many(task_log, [new_ref() for _ in range(10)])
    for sequence in (1, 5, 10):
        await nats_client.jetstream().delete_msg("EVENTS", sequence)
    assert [event.sequence for event in await _all(task_log.replay("events.>", 0))] == [2, 3, 4, 6, 7, 8, 9]


async def test_replays_at_once_do_not_mix(task_log: TaskLog) -> None:
    sessions = [f"session-{number}" for number in range(20)]
    await _append_many(task_log, [new_ref(session=session) for session in sessions for _ in range(20)])
    replays = await asyncio.gather(*(_all(task_log.replay(f"events.alice.{name}.*", 0)) for name in sessions))
    for session, events in zip(sessions, replays, strict=True):
        assert len(events) == 20
        assert {event.ref.session for event in events} == {session}


async def test_a_replay_leaves_no_subscription_behind(task_log: TaskLog, nats_client: NatsClient) -> None:
    await _append_many(task_log, [new_ref() for _ in range(5)])
    before = len(nats_client._subs)
    for _ in range(3):
        await _all(task_log.replay("events.>", 0))
    assert len(nats_client._subs) == before


async def test_a_replay_goes_on_where_a_batch_ended_by_its_bytes(task_log: TaskLog, nats_client: NatsClient) -> None:
    """Batches are of 4 MiB: 200 events of tasks with long prompts."""
    js = nats_client.jetstream()
    payload = b'{"event_type": "later", "prompt": "%s"}' % (b"x" * 20_000)
    await asyncio.gather(*(js.publish(new_ref().events, payload) for _ in range(450)))
    replayed = await _all(task_log.replay("events.>", 0))
    assert [event.sequence for event in replayed] == list(range(1, 451))


async def test_events_are_counted_from_a_sequence_on(task_log: TaskLog) -> None:
    for number in range(20):
        await _append_many(task_log, [new_ref("alice" if number % 2 else "bob")])
    counts = [await task_log.num_events("events.alice.*.*", since) for since in (0, 1, 2, 3, 11, 20, 21, 1000)]
    assert counts == [10, 10, 10, 9, 5, 1, 0, 0]


async def test_the_last_events_of_many_tasks_are_read_together(task_log: TaskLog) -> None:
    """Events for which one answer has no room are asked for again."""
    refs = [new_ref() for _ in range(600)]
    first = await _append_many(task_log, refs)
    large = [(ref, sequence) for ref, sequence in zip(refs, first, strict=True)][:400]
    await asyncio.gather(
        *(task_log.append(ref, AbortedEvent(task_id="t", reason="x" * 20_000), sequence) for ref, sequence in large)
    )
    last = await task_log.last_of_tasks([*refs, new_ref()])
    assert set(last) == set(refs)
    assert [last[ref].event_type for ref in refs] == ["aborted"] * 400 + ["pending"] * 200
    assert await task_log.last_of_tasks([]) == {}
