"""Workers that are dedicated to some models, beside one that serves all."""

from __future__ import annotations

import asyncio

from integration.worker.conftest import StartWorker, Tasks
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.announcements import WorkerAnnouncement
from sd_common.backlog import Backlog
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from support.waiting import PATIENCE_S


async def _workers_of(tasks: Tasks, task_id: str) -> list[str]:
    """Who started the task."""
    return [event.worker for event in await tasks.starts(task_id)]


async def _wait_until_seen(client: NatsClient, model: str, num_times: int) -> None:
    """Return when workers have told so many times that a job of the model waits."""
    told: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await client.subscribe(subjects.BACKLOG, cb=told.put)
    async with asyncio.timeout(PATIENCE_S):
        while num_times:
            lanes = Backlog.model_validate_json((await told.get()).data).lanes
            num_times -= any(lane.model_key == model_key(model) and lane.num_waiting for lane in lanes)
    await subscription.unsubscribe()


async def test_a_dedicated_worker_leaves_other_models_alone_and_a_shared_one_takes_them(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    await start_worker("dedicated", models=("tiny",))
    await tasks.publish("first")
    await tasks.wait_for("first", "finished")  # tiny is in memory, and the worker idle
    await tasks.publish("other", model="other")
    await _wait_until_seen(nats_client, "other", 3)
    await tasks.publish("tiny")
    await tasks.wait_for("tiny", "finished")
    assert await _workers_of(tasks, "other") == []
    await start_worker("shared")
    await tasks.wait_for("other", "finished")
    assert await _workers_of(tasks, "other") == ["shared"]
    assert await _workers_of(tasks, "tiny") == ["dedicated"]


async def test_a_shared_worker_serves_the_models_of_a_pool_that_is_gone(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    dedicated = await start_worker("dedicated", models=("tiny",))
    await start_worker("shared")
    await dedicated.stop()
    await tasks.publish("t")
    await tasks.wait_for("t", "finished")
    assert await _workers_of(tasks, "t") == ["shared"]


async def test_a_dedicated_worker_announces_its_own_models_alone(
    start_worker: StartWorker, nats_client: NatsClient
) -> None:
    told: asyncio.Queue[Msg] = asyncio.Queue()
    await nats_client.subscribe(subjects.WORKERS, cb=told.put)
    await nats_client.flush()
    await start_worker("dedicated", models=("tiny", "own-defaults"))
    async with asyncio.timeout(PATIENCE_S):
        announcement = WorkerAnnouncement.model_validate_json((await told.get()).data)
    assert [model.name for model in announcement.models] == ["own-defaults", "tiny"]
