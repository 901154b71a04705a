"""Which job a worker takes next, and when it does."""

from __future__ import annotations

import json

from integration.worker.conftest import StartWorker, Tasks
from nats.aio.msg import Msg

from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.puller import Puller
from sd_common.streams import JOBS
from sd_common.subjects import ModelLane
from support.waiting import PATIENCE_S


async def test_a_job_is_taken_only_when_the_engine_can_soon_begin_it(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    told: list[tuple[str, str]] = []

    async def listen(message: Msg) -> None:
        event = json.loads(message.data)
        if event["event_type"] == "started" or event.get("step") == event.get("steps", 0):
            told.append((event["task_id"], event["event_type"]))

    await nats_client.subscribe("feed.>", cb=listen)
    await nats_client.subscribe("progress.>", cb=listen)
    await start_worker(max_rows=2)  # with guidance, one picture
    task_ids = [f"t{number}" for number in range(4)]
    for task_id in task_ids:
        await tasks.publish(task_id, steps=10)
    for task_id in task_ids:
        await tasks.wait_for(task_id, "finished")
    assert told == [(task_id, kind) for task_id in task_ids for kind in ("started", "progress")]


async def _order_beside_a_running_one(tasks: Tasks, *models: str) -> list[str]:
    """The models of tasks in the order in which they end, which were published in that of `models` while one of "tiny"
    ran."""
    await tasks.publish("busy", model="tiny", steps=150)
    await tasks.wait_for("busy", "started")
    for model in models:
        await tasks.publish(f"of-{model}", model=model)
    ended_at = {model: (await tasks.wait_for(f"of-{model}", "finished")).sequence for model in models}
    return sorted(models, key=ended_at.__getitem__)


async def test_jobs_of_the_model_in_use_are_taken_before_older_ones_of_another(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    await start_worker(max_rows=2)
    await tasks.publish("warm", model="tiny")
    await tasks.wait_for("warm", "finished")
    assert await _order_beside_a_running_one(tasks, "other", "tiny") == ["tiny", "other"]


async def test_a_model_that_waited_too_long_is_taken_first(start_worker: StartWorker, tasks: Tasks) -> None:
    await start_worker(model_swap_after_s=0.0, max_rows=2)
    assert await _order_beside_a_running_one(tasks, "tiny", "other") == ["other", "tiny"]


async def test_a_model_is_loaded_while_tasks_of_another_run(start_worker: StartWorker, tasks: Tasks) -> None:
    await start_worker(max_rows=8)
    await tasks.publish("running", model="tiny", steps=400)
    await tasks.wait_for("running", "started")
    await tasks.publish("other", model="other")
    other, running = await tasks.wait_for("other", "finished"), await tasks.wait_for("running", "finished")
    assert other.sequence < running.sequence


async def test_a_job_that_was_handed_back_does_not_starve_behind_the_backlog_of_another_model(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    await tasks.publish("handed-back", model="other")
    puller = Puller(nats_client, JOBS, model_key("other"))
    await tasks.queue.create_consumer(ModelLane(model_key("other"), "rest"))
    await puller.start()
    job = await puller.next(PATIENCE_S)
    assert job is not None
    await start_worker(model_swap_after_s=0.5)
    for number in range(60):
        await tasks.publish(f"backlog-{number}", model="tiny", steps=10)
    await tasks.wait_for("backlog-0", "finished")
    await job.nak()
    await puller.close()
    handed_back = await tasks.wait_for("handed-back", "finished")
    last_of_backlog = await tasks.wait_for("backlog-59", "finished")
    assert handed_back.sequence < last_of_backlog.sequence
