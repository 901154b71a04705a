"""A worker is lost in the middle of a task: for good, for a while, or behind a cable that was pulled."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from nats.aio.client import Client as Nats

from chaos import evidence
from chaos.fleet import ACK_WAIT_S, FAR_WORKER, Fleet
from chaos.parts import ServicePart, pause, resume
from support.client import PATIENCE_S, Client, Events, Json
from support.network_namespace import why_no_namespaces

#: A second or so on one core.
_LONG = {"prompt": "x", "model": "shapes", "steps": 50, "width": 128, "height": 128, "scheduler": "ddim"}


@pytest_asyncio.fixture
async def session(fleet: Fleet) -> AsyncIterator[Client]:
    async with Client(fleet.gateway_urls()["gateway-one"]) as client:
        await client.take_public_token()
        yield client


@pytest_asyncio.fixture
async def nats(fleet: Fleet) -> AsyncIterator[Nats]:
    client = await evidence.connect(fleet)
    yield client
    await client.close()


async def _started_by(worker: str, session: Client, events: Events) -> str:
    """A task that this worker has just started. Those that others started are deleted: they have nothing to do."""
    others = []
    while (started := await _next_started(session, events))["worker"] != worker:
        others.append(started["task_id"])
    for task_id in others:
        assert (await session.delete(f"/task/{task_id}")).status == 204
    return str(started["task_id"])


async def _next_started(session: Client, events: Events) -> Json:
    return await events.until(await session.submit(**_LONG), "started")


async def _assert_ended_once(nats: Nats, task_id: str, workers: list[str]) -> None:
    """Started by these in turn, finished by the last, and nothing left over."""
    await evidence.settle(nats, [task_id], 0, PATIENCE_S)
    told = evidence.by_task(await evidence.read_events(nats))[task_id]
    assert [event.type for event in told] == ["pending", *["started"] * len(workers), "finished"]
    assert [event.body["worker"] for event in told[1:]] == [*workers, workers[-1]]
    assert (await evidence.leftovers(nats)).is_clean


@pytest.mark.timeout(120)
async def test_a_killed_workers_task_is_taken_over_within_ack_wait_and_a_second(
    fleet: Fleet, session: Client, nats: Nats
) -> None:
    part = fleet.parts["worker-one"]
    async with session.events() as events:
        task_id = await _started_by(part.name, session, events)
        killed_at_s = time.time()
        await fleet.do(part.kill)
        again = await events.until(task_id, "started")
        assert (again["worker"], again["attempt"]) == (FAR_WORKER, 2)
        await events.until(task_id, "finished")
    await fleet.do(part.start)
    await _assert_ended_once(nats, task_id, [part.name, FAR_WORKER])
    told = evidence.by_task(await evidence.read_events(nats))[task_id]
    takeover_s = told[2].at_s - killed_at_s
    print(f"takeover after {takeover_s:.2f} s")
    assert takeover_s <= ACK_WAIT_S + 1


@pytest.mark.timeout(120)
async def test_a_zombie_that_wakes_up_after_its_job_was_given_away_changes_nothing(
    fleet: Fleet, session: Client, nats: Nats
) -> None:
    part = fleet.parts["worker-one"]
    assert isinstance(part, ServicePart)
    async with session.events() as events:
        task_id = await _started_by(part.name, session, events)
        pause(part)
        try:
            again = await events.until(task_id, "started")
            assert (again["worker"], again["attempt"]) == (FAR_WORKER, 2)
            await events.until(task_id, "finished")
        finally:
            resume(part)
        await _until_first_try_ended(part, task_id)  # it made its picture too, and found that it was too late
        await _started_by(part.name, session, events)
    await _assert_ended_once(nats, task_id, [part.name, FAR_WORKER])


_WHY_NOT = why_no_namespaces()
if _WHY_NOT is not None and os.environ.get("SD_TEST_NAMESPACES") == "required":
    raise RuntimeError(f"SD_TEST_NAMESPACES=required, and there are no network namespaces: {_WHY_NOT}")


@pytest.mark.timeout(120)
@pytest.mark.skipif(_WHY_NOT is not None, reason=f"needs network namespaces: {_WHY_NOT}")
async def test_a_worker_that_was_cut_off_loses_its_job_to_another_and_takes_jobs_again_when_healed(
    fleet: Fleet, session: Client, nats: Nats
) -> None:
    part = fleet.parts[FAR_WORKER]
    assert isinstance(part, ServicePart)
    assert fleet.other_host is not None
    async with session.events() as events:
        task_id = await _started_by(FAR_WORKER, session, events)
        await fleet.do(fleet.other_host.unplug)
        try:
            again = await events.until(task_id, "started")
            assert (again["worker"], again["attempt"]) == ("worker-one", 2)
            await events.until(task_id, "finished")
        finally:
            await fleet.do(fleet.other_host.plug_in)
        await _until_first_try_ended(part, task_id)
        await _started_by(FAR_WORKER, session, events)
    await _assert_ended_once(nats, task_id, [FAR_WORKER, "worker-one"])


async def _until_first_try_ended(part: ServicePart, task_id: str) -> None:
    """Return when the worker has come to the end of the try that it was disturbed in. It may have been given the job
    once more meanwhile, which it refuses at once."""
    wanted = ('"event": "job"', task_id, '"delivery": 1')
    async with asyncio.timeout(PATIENCE_S):
        while not any(all(text in line for text in wanted) for line in part.service.new_log.splitlines()):  # noqa: ASYNC110 - another process logs
            await asyncio.sleep(0.05)
