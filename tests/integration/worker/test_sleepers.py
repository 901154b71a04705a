"""A worker that stands still before it has started a task, until its job was given to another, and then wakes up."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from integration.worker.conftest import StartWorker, Tasks

from sd_common.events import FinishedEvent, PendingEvent, StartedEvent
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import JOBS
from sd_common.subjects import ModelLane
from sd_common.task_log import NO_EVENT, TaskLog
from sd_worker.delivery import Delivery
from sd_worker.errors import TaskLost
from sd_worker.publish_events import EventPublisher
from support.deployment import Deployment
from support.waiting import PATIENCE_S, once

#: One that is awake may stand still for a moment, and not lose its job.
_ENV = {"JOB_ACK_WAIT_S": "5"}


async def _told(tasks: Tasks, task_id: str) -> list[tuple[str, int, int | None]]:
    """Who started the task, in which attempt, with which delivery of its job."""
    return [(event.worker, event.attempt, event.delivery) for event in await tasks.starts(task_id)]


async def test_a_worker_that_slept_with_a_job_in_its_socket_leaves_the_task_to_the_one_that_has_started_it(
    deployment: Deployment, tasks: Tasks, nats_client: NatsClient
) -> None:
    sleeper = deployment.start_worker("sleeper", _ENV)
    await asyncio.to_thread(sleeper.wait_for_log, "worker_started")
    await tasks.publish("warm")
    await tasks.wait_for("warm", "finished")  # from now on it has a pull open for the model
    await tasks.wait_until_queue_is_empty()
    sleeper.process.send(signal.SIGSTOP)
    await tasks.publish("slept-through", steps=200)
    js, key = nats_client.jetstream(), model_key("tiny")
    await once(lambda: js.consumer_info(JOBS, key), lambda consumer: bool(consumer.num_ack_pending))
    deployment.start_worker("awake", _ENV)
    await tasks.wait_for("slept-through", "started")
    sleeper.process.send(signal.SIGCONT)
    finished = (await tasks.wait_for("slept-through", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert (finished.worker, finished.attempt) == ("awake", 1)
    await asyncio.to_thread(sleeper.wait_for_log, '"ending": "lost"')
    assert await _told(tasks, "slept-through") == [("awake", 1, 2)]
    await tasks.wait_until_queue_is_empty()


async def test_a_delivery_before_that_of_the_running_attempt_takes_no_task_away(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    job = await tasks.publish("running")
    sequence = await tasks.log.append(job.ref, PendingEvent(task_id="running", job_sequence=1), NO_EVENT)
    elsewhere = StartedEvent(task_id="running", attempt=1, worker="elsewhere", delivery=2)
    await tasks.log.append(job.ref, elsewhere, sequence)
    await start_worker("sleeper", job_ack_wait_s=4.0)
    await tasks.wait_for("running", "finished")
    # The first delivery changed nothing; the second came after ack_wait, since nobody really ran the task.
    assert await _told(tasks, "running") == [("elsewhere", 1, 2), ("sleeper", 2, 2)]


async def test_a_delivery_that_was_held_in_silence_for_longer_than_ack_wait_starts_nothing(
    tasks: Tasks, nats_client: NatsClient
) -> None:
    ack_wait_s = 0.2
    job = await tasks.publish("slept-through")
    await tasks.queue.create_consumer(ModelLane(model_key("tiny"), "rest"))
    puller = Puller(nats_client, JOBS, model_key("tiny"))
    await puller.start()
    message = await puller.next(PATIENCE_S)
    assert message is not None
    delivery = Delivery(message, ack_wait_s)
    events = EventPublisher(nats_client, TaskLog(nats_client), "sleeper", max_attempts=5)
    async with delivery.kept_in_progress():
        time.sleep(1.5 * ack_wait_s)  # noqa: ASYNC251 - the process stands still
        await asyncio.sleep(ack_wait_s / 2)  # it tells NATS again, too late
        with pytest.raises(TaskLost):
            await events.next_attempt(job.ref, delivery)
    assert await tasks.event_types("slept-through") == ["pending"]
    await puller.close()
