"""A worker on another host, whose cable is pulled in the middle of a task and plugged in again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chaos import evidence
from chaos.fleet import FAR_WORKER, Fleet
from chaos.parts import ServicePart, pause, resume
from support.client import Client, Events, Json
from support.network_namespace import why_no_namespaces
from support.waiting import PATIENCE_S, until

#: Some seconds on one core.
_LONG = {"prompt": "x", "model": "shapes", "steps": 200, "width": 128, "height": 128, "scheduler": "ddim"}
_WHY_NOT = why_no_namespaces()
if _WHY_NOT is not None and os.environ.get("SD_TEST_NAMESPACES") == "required":
    raise RuntimeError(f"SD_TEST_NAMESPACES=required, and there are no network namespaces: {_WHY_NOT}")


@pytest_asyncio.fixture
async def session(fleet: Fleet) -> AsyncIterator[Client]:
    async with Client(fleet.gateway_urls()["gateway-one"]) as client:
        await client.take_public_token()
        yield client


@pytest.mark.skipif(_WHY_NOT is not None, reason=f"needs network namespaces: {_WHY_NOT}")
async def test_a_worker_that_was_cut_off_changes_nothing_and_takes_jobs_again_when_healed(
    fleet: Fleet, session: Client
) -> None:
    """Its job goes to the other worker, and is finished there before the cable is plugged in."""
    part = fleet.parts[FAR_WORKER]
    assert isinstance(part, ServicePart)
    assert fleet.other_host is not None
    async with session.events() as events:
        task_id = await _started_by(FAR_WORKER, session, events)
        pause(part)  # it does not end the task before the cable is pulled
        try:
            await fleet.do(fleet.other_host.unplug)
        finally:
            resume(part)
        try:
            again = await events.until(task_id, "started")
            assert (again["worker"], again["attempt"]) == ("worker-one", 2)
            await events.until(task_id, "finished")
        finally:
            await fleet.do(fleet.other_host.plug_in)
    await _until_first_try_ended(part, task_id)
    async with session.events() as events:
        await _started_by(FAR_WORKER, session, events)
    client = await evidence.connect(fleet)
    try:
        await evidence.settle(client, [task_id], 0, PATIENCE_S)
        told = evidence.by_task(await evidence.read_events(client))[task_id]
        assert [event.type for event in told] == ["pending", "started", "started", "finished"]
        assert [event.body["worker"] for event in told[1:]] == [FAR_WORKER, "worker-one", "worker-one"]
        assert (await evidence.leftovers(client)).is_clean
    finally:
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


async def _until_first_try_ended(part: ServicePart, task_id: str) -> None:
    """Return when the worker has ended the try that it was disturbed in. It may have been given the job once more
    meanwhile, which it refuses at once."""
    wanted = ('"event": "job"', task_id, '"delivery": 1')
    await until(lambda: any(all(text in line for text in wanted) for line in part.service.new_log.splitlines()))
