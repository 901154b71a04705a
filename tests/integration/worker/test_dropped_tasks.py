"""Tasks that were aborted, before their job came to a worker or while it runs."""

from __future__ import annotations

import json

from integration.worker.conftest import StartWorker, Tasks
from nats.aio.msg import Msg

from sd_common.events import AbortedEvent
from sd_common.nats_client import NatsClient
from sd_common.task_log import NO_EVENT


async def test_the_job_of_a_task_that_was_aborted_before_is_not_run(start_worker: StartWorker, tasks: Tasks) -> None:
    job = await tasks.publish("aborted")
    await tasks.log.append(job.ref, AbortedEvent(task_id="aborted", reason="no"), NO_EVENT)
    await start_worker()
    await tasks.wait_until_queue_is_empty()
    assert await tasks.event_types("aborted") == ["aborted"]


async def test_a_cancel_of_a_task_that_was_not_aborted_changes_nothing(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    """Whoever may publish cancels ends nobody's task by that."""
    await start_worker()
    job = await tasks.publish("disturbed", steps=60)
    await tasks.wait_until_begun("disturbed")
    for _ in range(20):
        await nats_client.publish(job.ref.cancels)
    await tasks.wait_for("disturbed", "finished")
    assert await tasks.event_types("disturbed") == ["pending", "started", "finished"]


async def test_a_running_task_that_was_aborted_is_dropped_at_its_cancel(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    told: list[int] = []

    async def note(message: Msg) -> None:
        told.append(json.loads(message.data)["step"] or 0)

    await start_worker()
    job = await tasks.publish("dropped", steps=500)
    await nats_client.subscribe(job.ref.progress, cb=note)
    started = await tasks.wait_for("dropped", "started")
    await tasks.wait_until_begun("dropped")
    event = AbortedEvent(task_id="dropped", reason="no longer wanted", code="cancelled")
    await tasks.log.append(job.ref, event, started.sequence)
    await nats_client.publish(job.ref.cancels)
    await tasks.wait_until_queue_is_empty()
    assert max(told) < 500
    assert await tasks.event_types("dropped") == ["pending", "started", "aborted"]
