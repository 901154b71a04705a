"""A worker that is told to stop: other workers have what it has not begun, at once, and it costs no attempt."""

from __future__ import annotations

import asyncio
from pathlib import Path

from integration.worker.conftest import StartWorker, Tasks
from integration.worker.hub_sources import NAME, held_download

from sd_common.events import FinishedEvent
from sd_common.messages import now
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import JOBS
from sd_common.subjects import ModelLane
from support.hub import Hub
from support.waiting import PATIENCE_S, once

#: Far below ack_wait.
_SOON_S = 15.0


async def test_what_waits_for_room_is_at_another_worker_soon_while_the_rest_ends_here(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    one = await start_worker("one", max_rows=8)
    running = [f"running-{number}" for number in range(4)]  # with guidance, they fill a pass
    for task_id in (*running, "waiting"):
        await tasks.publish(task_id, steps=150)
        await tasks.wait_for(task_id, "started")
    for task_id in running:
        await tasks.wait_until_begun(task_id)
    stopping = asyncio.create_task(one.stop())
    async with asyncio.timeout(_SOON_S):
        await tasks.wait_for("waiting", "pending")
    assert not stopping.done()
    await start_worker("two")
    await stopping
    await tasks.wait_for("waiting", "finished")
    assert await tasks.starts_and_returns("waiting") == [
        ("pending", 0),
        ("started", "one"),
        ("pending", 0),
        ("started", "two"),
    ]
    for task_id in running:
        assert (await tasks.wait_for(task_id, "finished")).event.event_type == "finished"
        assert await tasks.starts_and_returns(task_id) == [("pending", 0), ("started", "one")]
    await tasks.wait_until_queue_is_empty()


async def test_what_is_handed_back_runs_at_a_worker_that_is_idle_while_the_rest_ends_here(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    one = await start_worker("one", max_rows=8)
    for number in range(4):  # with guidance, they fill a pass
        await tasks.publish(f"running-{number}", steps=500)
        await tasks.wait_until_begun(f"running-{number}")
    await tasks.publish("waiting")
    await tasks.wait_for("waiting", "started")
    await start_worker("two", preload_models=("tiny",))
    js, key = nats_client.jetstream(), model_key("tiny")
    # The first has no room: the second has a pull open.
    await once(lambda: js.consumer_info(JOBS, key), lambda consumer: bool(consumer.num_waiting))
    told_at = now()
    stopping = asyncio.create_task(one.stop())
    await tasks.wait_for("waiting", "finished")
    started = await tasks.starts("waiting")
    assert [event.worker for event in started] == ["one", "two"]
    assert (started[-1].time - told_at).total_seconds() <= _SOON_S
    assert not stopping.done()
    await stopping


async def test_a_task_whose_model_is_being_downloaded_is_handed_back_at_once(
    start_worker: StartWorker, tasks: Tasks, hub: Hub, tiny: Path, tmp_path: Path
) -> None:
    hub.add(NAME, tiny)
    with held_download(tmp_path / "cache", tiny):
        one = await start_worker("one")
        await tasks.publish("t", model=NAME)
        await tasks.wait_for("t", "started")
        async with asyncio.timeout(_SOON_S):
            await one.stop()
        await start_worker("two")
        await tasks.wait_for("t", "started")
    await tasks.wait_for("t", "finished")
    assert await tasks.starts_and_returns("t") == [
        ("pending", 0),
        ("started", "one"),
        ("pending", 0),
        ("started", "two"),
    ]


async def test_a_worker_that_stops_hands_a_job_that_it_has_not_started_to_another(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    worker = await start_worker(max_rows=2)
    await tasks.publish("running", steps=200)
    await tasks.wait_until_begun("running")
    await tasks.publish("queued")
    await worker.stop()
    assert (await tasks.events("running"))[-1].event.event_type == "finished"
    puller = Puller(nats_client, JOBS, model_key("tiny"))
    await puller.start()
    job = await puller.next(PATIENCE_S)
    assert job is not None
    assert b'"queued"' in job.data
    assert await tasks.events("queued") == []
    await puller.close()
    await worker.stop()  # again: nothing happens


async def test_a_drain_that_takes_too_long_hands_the_running_task_back(start_worker: StartWorker, tasks: Tasks) -> None:
    worker = await start_worker("slow", drain_timeout_s=0.0)
    await tasks.publish("long", steps=400)
    await tasks.wait_until_begun("long")
    await worker.stop()
    await start_worker("fresh")
    started = await tasks.starts("long")
    assert [(event.worker, event.attempt) for event in started][:1] == [("slow", 1)]
    last = await tasks.wait_for("long", "finished")
    assert isinstance(last.event, FinishedEvent)
    assert (last.event.worker, last.event.attempt) == ("fresh", 1)  # handed back, it cost none


async def test_a_worker_stopped_while_it_changes_model_loses_no_job(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    """An idle worker has a pull open for the model used last; it is told to stop just as a job of another comes."""
    for number in range(12):
        worker = await start_worker(f"stopped-{number}")
        await tasks.publish(f"home-{number}", model="tiny")
        await tasks.wait_for(f"home-{number}", "finished")
        await tasks.publish(f"away-{number}", model="other")
        for _ in range(number):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            await worker.stop()
        if not await tasks.events(f"away-{number}"):
            puller = Puller(nats_client, JOBS, model_key("other"))
            await tasks.queue.create_consumer(ModelLane(model_key("other"), "rest"))
            await puller.start()
            job = await puller.next(_SOON_S)  # far below ack_wait
            assert job is not None, number
            await job.ack_sync()
            await puller.close()
        else:
            assert (await tasks.events(f"away-{number}"))[-1].event.event_type == "finished"
