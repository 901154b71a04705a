"""Starts of a task: which of them count, and that only the last one may end it."""

from __future__ import annotations

import pytest
from integration.worker.conftest import StartWorker, Tasks

from sd_common import subjects
from sd_common.blob_store import BlobStore
from sd_common.errors import BlobNotFound
from sd_common.events import AbortedEvent, FinishedEvent, PendingEvent, StartedEvent
from sd_common.nats_client import NatsClient
from sd_common.task_log import NO_EVENT
from sd_worker.engine.errors import DeviceUnavailable
from support.jobs import num_jobs


async def test_a_task_whose_workers_were_lost_max_attempts_times_is_aborted_with_the_reason(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    job = await tasks.publish("poison")
    sequence = await tasks.log.append(job.ref, PendingEvent(task_id="poison", job_sequence=1), NO_EVENT)
    for attempt in (1, 2):
        started = StartedEvent(task_id="poison", attempt=attempt, worker="lost")
        sequence = await tasks.log.append(job.ref, started, sequence)
    await start_worker(max_attempts=2)
    aborted = (await tasks.wait_for("poison", "aborted")).event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == "attempts_exhausted"
    assert "started 2 times and never ended" in aborted.reason
    await tasks.wait_until_queue_is_empty()


async def test_a_worker_whose_task_was_started_by_another_meanwhile_changes_nothing(
    start_worker: StartWorker, tasks: Tasks, blob_store: BlobStore, nats_client: NatsClient
) -> None:
    """As a worker that stood still for longer than ack_wait finds it when it wakes up."""
    zombie = await start_worker("zombie")
    job = await tasks.publish("stolen", steps=200)
    started = await tasks.wait_for("stolen", "started")
    await tasks.wait_until_begun("stolen")
    other = StartedEvent(task_id="stolen", attempt=2, worker="other")
    sequence = await tasks.log.append(job.ref, other, started.sequence)
    await zombie.stop()  # it finishes what runs
    assert [event.sequence for event in await tasks.events("stolen")][-1] == sequence
    assert await num_jobs(nats_client) == 1  # left to the other worker
    with pytest.raises(BlobNotFound):
        await blob_store.get(job.blob_id)


async def test_a_job_that_is_delivered_again_to_the_worker_that_runs_it_changes_nothing(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    """As when its worker could not tell NATS for long that it is in progress."""
    await start_worker(max_rows=8)
    job = await tasks.publish("twice", steps=200)
    await tasks.wait_for("twice", "started")
    # Without a message id, so that the stream takes it as a job of its own.
    await nats_client.jetstream().publish(subjects.jobs_of("tiny"), job.model_dump_json().encode())
    await tasks.publish("other", steps=2)
    await tasks.wait_for("other", "finished")
    await tasks.wait_for("twice", "finished")
    assert await tasks.event_types("twice") == ["pending", "started", "finished"]


async def test_an_attempt_that_breaks_its_workers_device_counts(
    start_worker: StartWorker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = await start_worker("broken", preload_models=("tiny",))

    def fail(*_: object) -> None:
        raise DeviceUnavailable("Device 'cuda' has failed: restart the worker")

    def fail_in_a_pass(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    unet = broken._engine._engine.models.get("tiny").pipeline.components["unet"]  # type: ignore[union-attr]
    unet.register_forward_pre_hook(fail_in_a_pass)
    monkeypatch.setattr("sd_worker.engine.models.resident_models.check_device", fail)
    await tasks.publish("t")
    await tasks.wait_for("t", "started")
    await start_worker("sound")
    finished = (await tasks.wait_for("t", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert (finished.worker, finished.attempt) == ("sound", 2)
