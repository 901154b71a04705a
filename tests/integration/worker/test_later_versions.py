"""Workers of two versions at once, as in an upgrade: what the older one cannot read it leaves to the newer."""

from __future__ import annotations

import json

from integration.worker.conftest import StartWorker, Tasks
from structlog.testing import capture_logs

from sd_common import subjects
from sd_common.events import AbortedEvent
from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from support.jobs import num_jobs
from support.logs import until_logged


async def _append(nats_client: NatsClient, ref: TaskRef, event_type: str) -> None:
    """As a worker of a later version does."""
    event = {"v": 2, "event_type": event_type, "task_id": ref.task_id}
    await nats_client.jetstream().publish(ref.events, json.dumps(event).encode())


async def test_a_task_whose_last_event_is_of_a_later_version_is_left_to_newer_workers_and_costs_no_attempt(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    job = await tasks.publish("newer")
    await _append(nats_client, job.ref, "started")
    with capture_logs() as lines:
        await start_worker("old", max_attempts=1)
        await until_logged(lines, "left_to_newer_workers")
    assert await tasks.event_types("newer") == ["started"]
    assert await num_jobs(nats_client) == 1
    await _append(nats_client, job.ref, "finished")
    await tasks.wait_until_queue_is_empty()  # the job comes again, and its task has ended
    assert await tasks.event_types("newer") == ["started", "finished"]


async def test_an_unreadable_job_whose_task_has_an_event_of_a_later_version_stays_for_newer_workers(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    broken = {"v": 1, "task_id": "newer", "user": "u", "session": "s", "parameters": {"params_type": "txt2img"}}
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), json.dumps(broken).encode())
    await _append(nats_client, TaskRef("u", "s", "newer"), "pending")
    with capture_logs() as lines:
        await start_worker("old")
        await until_logged(lines, "left_to_newer_workers")
    assert await tasks.event_types("newer") == ["pending"]
    assert await num_jobs(nats_client) == 1


async def test_a_job_of_a_later_version_is_refused_so_gateways_that_write_it_come_after_the_last_old_worker(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    later = {"v": 2, "task_id": "later", "user": "u", "session": "s"}
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), json.dumps(later).encode())
    await start_worker("old")
    logged = await tasks.wait_for("later", "aborted")
    event = logged.event
    assert isinstance(event, AbortedEvent)
    assert (event.code, "v: Input should be 1" in event.reason) == ("invalid_input", True)
    await tasks.wait_until_queue_is_empty()
