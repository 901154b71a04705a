"""A task that kills its workers, and those that run beside it."""

from __future__ import annotations

import asyncio

import pytest
from integration.worker.conftest import StartWorker, Tasks

from sd_common.events import TERMINAL_TYPES, AbortedEvent, PendingEvent, StartedEvent
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT
from support.deployment import Deployment
from support.waiting import PATIENCE_S, once

_KILLER = "killer"
_INNOCENT = ["innocent-1", "innocent-2"]


async def _publish_lost(tasks: Tasks, task_id: str, num_attempts: int) -> None:
    """A task whose workers were lost so many times."""
    ref = TaskRef("service", "batch", task_id)
    sequence = await tasks.log.append(ref, PendingEvent(task_id=task_id, job_sequence=1), NO_EVENT)
    for attempt in range(1, num_attempts + 1):
        started = StartedEvent(task_id=task_id, attempt=attempt, worker="lost")
        sequence = await tasks.log.append(ref, started, sequence)
    assert (await tasks.publish(task_id, steps=5)).ref == ref


async def _ran_alone(tasks: Tasks, task_id: str) -> bool:
    """Whether no other task was under way while the last attempt at this one was."""
    alone: list[bool] = []
    under_way: set[str] = set()
    async for logged in tasks.log.replay("events.>", 0):
        match logged.event:
            case StartedEvent(worker="worker", task_id=started):
                under_way.add(started)
            case event if event.event_type in TERMINAL_TYPES:
                under_way.discard(event.task_id)
        alone += [len(under_way) == 1] if task_id in under_way else []
    return bool(alone) and all(alone)


@pytest.mark.parametrize(("num_attempts", "alone"), [(0, False), (1, False), (2, True)])
async def test_a_task_whose_workers_were_lost_twice_runs_alone_and_others_share(
    start_worker: StartWorker, tasks: Tasks, num_attempts: int, alone: bool
) -> None:
    await start_worker(max_rows=8, preload_models=("tiny",))
    # The first keeps the worker busy until the others have come.
    await tasks.publish("before", steps=150)
    await tasks.wait_until_begun("before")
    task_ids = ["suspect-1", "suspect-2"]
    for task_id in task_ids:
        await _publish_lost(tasks, task_id, num_attempts)
    await tasks.publish("after", steps=5)
    for task_id in ("before", *task_ids, "after"):
        await tasks.wait_for(task_id, "finished")
    assert [await _ran_alone(tasks, task_id) for task_id in task_ids] == [alone, alone]
    await tasks.wait_until_queue_is_empty()


async def test_the_last_attempt_is_alone_also_where_few_are_allowed(start_worker: StartWorker, tasks: Tasks) -> None:
    await start_worker(max_rows=8, preload_models=("tiny",), max_attempts=2)
    await tasks.publish("before", steps=150)
    await tasks.wait_until_begun("before")
    await _publish_lost(tasks, "suspect", 1)
    await tasks.wait_for("suspect", "finished")
    assert await _ran_alone(tasks, "suspect")


async def test_a_task_that_waits_to_run_alone_is_handed_back_at_once_when_its_worker_is_told_to_stop(
    start_worker: StartWorker, tasks: Tasks
) -> None:
    one = await start_worker("worker", max_rows=8, preload_models=("tiny",))
    await tasks.publish("before", steps=200)
    await tasks.wait_until_begun("before")
    await _publish_lost(tasks, "suspect", 2)
    stopping = asyncio.create_task(one.stop())
    await start_worker("two")
    await tasks.wait_for("suspect", "finished")
    starts = await tasks.starts("suspect")
    assert [(event.worker, event.attempt) for event in starts] == [
        ("lost", 1),
        ("lost", 2),
        ("two", 3),
    ]
    await stopping


#: A worker runs all three tasks at once.
_ENV = {"MAX_ROWS": "8", "MAX_ATTEMPTS": "3", "OMP_NUM_THREADS": "1"}


@pytest.mark.timeout(240)
async def test_a_task_that_kills_every_worker_is_aborted_and_those_beside_it_finish(
    deployment: Deployment, tasks: Tasks
) -> None:
    """The test kills the worker for it, once for each of its attempts, and long before its picture is made."""
    deployment.start_worker("worker", _ENV)
    await tasks.publish(_KILLER, steps=500, width=512, height=512)
    for task_id in _INNOCENT:
        await tasks.publish(task_id, steps=120)
    for attempt in (1, 2):
        for task_id in (_KILLER, *_INNOCENT):
            await _until_told(tasks, task_id, "started", attempt)
        deployment.services["worker"].process.kill()
        deployment.start_worker("worker", _ENV)
    await _until_told(tasks, _KILLER, "started", 3)
    deployment.services["worker"].process.kill()
    deployment.start_worker("worker", _ENV)
    await _until_told(tasks, _KILLER, "aborted")
    aborted = (await tasks.events(_KILLER))[-1].event
    assert isinstance(aborted, AbortedEvent)
    assert aborted.code == "attempts_exhausted"
    for task_id in _INNOCENT:
        await _until_told(tasks, task_id, "finished")


async def _until_told(tasks: Tasks, task_id: str, event_type: str, times: int = 1) -> None:
    """Return when the task has had so many events of this type. A process may have to start for that."""
    await once(lambda: tasks.event_types(task_id), lambda told: told.count(event_type) >= times, 2 * PATIENCE_S)
