"""Processes are killed and servers restarted: nothing accepted is lost, and each task ends once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from sd_common.messages import now
from sd_common.nats_client import NatsClient
from sd_common.task_log import TaskLog
from support import servers
from support.client import Client, Events, Json
from support.connections import connected
from support.deployment import Deployment, path_of_picture
from support.events import TERMINAL_TYPES
from support.jobs import until_no_jobs
from support.servers import S3Server
from support.waiting import PATIENCE_S

#: Some seconds on one core.
_LONG = {"prompt": "x", "model": "shapes", "steps": 400, "width": 128, "height": 128, "scheduler": "ddim"}
_SHORT = {"prompt": "x", "model": "shapes", "steps": 2, "width": 64, "height": 64}
#: Seconds that a worker takes to begin with a job that it was given, on a busy machine too.
_BEGINS_WITHIN_S = 30.0
#: More than a worker of a busy machine may stand still for: it would lose its job.
_ACK_WAIT_S = 5
#: Of the workers.
_WORKER = {"JOB_ACK_WAIT_S": str(_ACK_WAIT_S)}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server, model_dir: Path) -> Iterator[Deployment]:
    """Auth, a gateway and two workers, each its own user of NATS. They are started before NATS has its streams."""
    minio = s3_server.minio_settings("crashes")
    with servers.nats_server_with_users() as nats:
        deployment = Deployment(tmp_path_factory.mktemp("deployment"), nats, minio, model_dir)
        try:
            deployment.start_gateway()
            for name in ("one", "two"):
                deployment.start_worker(name, _WORKER)
            deployment.start_auth()
            deployment.provision()
            for name in ("one", "two"):
                deployment.services[name].wait_for_log("worker_started")
            yield deployment
        finally:
            deployment.stop()


@pytest_asyncio.fixture
async def session(deployment: Deployment) -> AsyncIterator[Client]:
    async with Client(deployment.gateway_url()) as client:
        await client.until_ready()
        await client.take_public_token()
        yield client


@pytest_asyncio.fixture
async def nats(deployment: Deployment) -> AsyncIterator[NatsClient]:
    async with connected(servers.nats_settings_of(deployment.nats)) as client:
        yield client


async def _assert_each_ended_once(nats: NatsClient, task_ids: list[str], event_type: str) -> None:
    """Every task has exactly one terminal event, of this type, and it is the last one; no job is left."""
    await until_no_jobs(nats)
    told: dict[str, list[str]] = {task_id: [] for task_id in task_ids}
    async for logged in TaskLog(nats).replay("events.>", 0):
        if logged.ref.task_id in told:
            told[logged.ref.task_id].append(logged.event.event_type)
    for types in told.values():
        assert types[0] == "pending"
        assert types[-1] == event_type
        assert Counter(types)["finished"] + Counter(types)["aborted"] == 1


async def test_a_killed_worker_is_replaced_by_another(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    """SIGKILL in the middle of a task: once ack_wait is over the other worker runs it, as the second attempt."""
    async with session.events() as events:
        task_id = await session.submit(**_LONG)
        started = await events.until(task_id, "started")
        deployment.services[started["worker"]].process.kill()
        killed_at = now()
        again = await events.until(task_id, "started")
        assert (again["attempt"], started["attempt"]) == (2, 1)
        assert (datetime.fromisoformat(again["time"]) - killed_at).total_seconds() <= _ACK_WAIT_S + _BEGINS_WITHIN_S
        assert again["worker"] != started["worker"]
        finished = await events.until(task_id, "finished")
        assert finished["attempt"] == 2
    assert (await session.picture(path_of_picture(finished))).size == (128, 128)
    await _assert_each_ended_once(nats, [task_id], "finished")
    deployment.start_worker(started["worker"], _WORKER).wait_for_log("worker_started")


async def test_a_worker_that_stood_still_until_its_job_was_given_away_changes_nothing(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    async with session.events() as events:
        task_id = await session.submit(**_LONG)
        started = await events.until(task_id, "started")
        zombie = deployment.services[started["worker"]]
        zombie.process.send(signal.SIGSTOP)
        again = await events.until(task_id, "started")
        assert again["worker"] != started["worker"]
        zombie.process.send(signal.SIGCONT)
        finished = await events.until(task_id, "finished")
        assert (finished["worker"], finished["attempt"]) == (again["worker"], 2)
        etag = (await session.get(path_of_picture(finished))).headers["ETag"]
        await asyncio.to_thread(zombie.wait_for_log, f'"task_id": "{task_id}"')
        # Which of the two, tells whether it came to its end before the other did.
        assert '"ending": "lost"' in zombie.new_log or '"ending": "had_ended"' in zombie.new_log
        assert (await session.get(path_of_picture(finished))).headers["ETag"] == etag
    await _assert_each_ended_once(nats, [task_id], "finished")


async def test_a_second_signal_ends_a_worker_at_once(deployment: Deployment, session: Client, nats: NatsClient) -> None:
    async with session.events("&progress=1") as events:
        task_id = await session.submit(**_LONG)
        started = await events.until(task_id, "started")
        while (await events.until(task_id, "progress"))["stage"] != "denoising":
            pass  # what its engine has not begun it hands back at the first signal
        worker = deployment.services[started["worker"]]
        worker.process.send(signal.SIGTERM)
        await asyncio.to_thread(worker.wait_for_log, "worker_draining")
        worker.process.send(signal.SIGTERM)
        # At the end of its task it would end with 0.
        assert await asyncio.to_thread(worker.process.wait, PATIENCE_S) == -signal.SIGTERM
        assert (await events.until(task_id, "finished"))["attempt"] == 2
    await _assert_each_ended_once(nats, [task_id], "finished")
    deployment.start_worker(started["worker"], _WORKER).wait_for_log("worker_started")


async def test_a_restart_of_nats_in_the_middle_loses_nothing(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    async with session.events() as events:
        task_ids = [await session.submit(**_LONG)]
        await events.until(task_ids[0], "started")
        task_ids += [await session.submit(**_SHORT) for _ in range(5)]
        deployment.nats.kill()
        deployment.nats.start()
        task_ids.append(await session.submit_once_there(**_SHORT))
        ended: Counter[str] = Counter()
        while len(ended) < len(task_ids):
            event = await events.next()
            if event["event_type"] in TERMINAL_TYPES:
                ended[event["task_id"]] += 1
    assert ended == Counter(task_ids)
    await _assert_each_ended_once(nats, task_ids, "finished")
    await session.take_public_token()  # auth has come back too


async def _one_at_each_worker(session: Client, events: Events) -> list[Json]:
    """Two tasks that have just started, each at a worker of its own: what they started. A worker may take a second one
    before it has room; it is deleted."""
    first = await events.until(await session.submit(**_LONG), "started")
    while (second := await events.until(await session.submit(**_LONG), "started"))["worker"] == first["worker"]:
        assert (await session.delete(f"/task/{second['task_id']}")).status == 204
    return [first, second]


async def test_a_worker_told_to_stop_finishes_what_runs_and_leaves_the_rest_to_others(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    async with session.events() as events:
        started = await _one_at_each_worker(session, events)
        task_ids = [event["task_id"] for event in started]
        task_ids += [await session.submit(**_SHORT) for _ in range(4)]
        stopping = started[0]["worker"]
        # Meanwhile events are read: pings would not be answered else.
        stopped = asyncio.ensure_future(asyncio.to_thread(deployment.services[stopping].process.terminate, PATIENCE_S))
        workers: dict[str, tuple[str, int]] = {}
        while len(workers) < len(task_ids):
            event = await events.next()
            if event["event_type"] in TERMINAL_TYPES and event["task_id"] in task_ids:
                assert event["event_type"] == "finished", event
                workers[event["task_id"]] = (event["worker"], event["attempt"])
        assert await stopped == 0, deployment.services[stopping].log
    assert workers[task_ids[0]] == (stopping, 1)
    other = started[1]["worker"]
    assert [workers[task_id] for task_id in task_ids[1:]] == [(other, 1)] * 5
    await _assert_each_ended_once(nats, task_ids, "finished")
    deployment.start_worker(stopping, _WORKER).wait_for_log("worker_started")


async def test_a_gateway_told_to_stop_answers_the_requests_under_way(deployment: Deployment, session: Client) -> None:
    query = {name: str(value) for name, value in (_LONG | {"steps": 300}).items()}
    async with session.events() as events:
        waiting = asyncio.ensure_future(session.get("/txt2img", params=query))
        while (await events.next())["event_type"] != "started":
            pass
        stopped = asyncio.ensure_future(asyncio.to_thread(deployment.services["gateway"].process.terminate, PATIENCE_S))
        assert (await waiting).status == 200
        assert await stopped == 0
    deployment.start_gateway()


async def test_a_second_signal_ends_a_gateway_at_once(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    query = {name: str(value) for name, value in _LONG.items()}
    gateway = deployment.services["gateway"]
    async with session.events() as events:
        waiting = asyncio.ensure_future(session.get("/txt2img", params=query))
        while (started := await events.next())["event_type"] != "started":
            pass
        gateway.process.send(signal.SIGTERM)
        await asyncio.to_thread(gateway.wait_for_log, "stopping")
        gateway.process.send(signal.SIGTERM)
        # Once it had answered, it would end with 0.
        assert await asyncio.to_thread(gateway.process.wait, PATIENCE_S) == -signal.SIGTERM
        with pytest.raises(aiohttp.ClientError):
            await waiting
    deployment.start_gateway()
    await _assert_each_ended_once(nats, [started["task_id"]], "finished")  # its task went on


async def test_a_worker_finds_a_cancel_that_it_missed_while_nats_was_away(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    """The cancel itself is not stored. Here the worker is stopped (SIGSTOP) while it is sent and NATS restarts."""
    async with session.events() as events:
        task_id = await session.submit(**_LONG | {"steps": 500})
        started = await events.until(task_id, "started")
        worker = deployment.services[started["worker"]].process
        worker.send(signal.SIGSTOP)
        assert (await session.delete(f"/task/{task_id}")).status == 204
        deployment.nats.kill()
        deployment.nats.start()
        worker.send(signal.SIGCONT)
        assert (await events.until(task_id, "aborted"))["code"] == "cancelled"
        follower = await session.submit_once_there(**_SHORT)
        assert (await events.of_task(follower))[-1]["event_type"] == "finished"
    await _assert_each_ended_once(nats, [task_id], "aborted")


async def test_a_task_that_kills_its_workers_is_aborted_after_max_attempts(
    deployment: Deployment, session: Client, nats: NatsClient
) -> None:
    worker = {**_WORKER, "MAX_ATTEMPTS": "2"}
    for name in ("one", "two"):
        deployment.services[name].process.kill()
        deployment.start_worker(name, worker)
    async with session.events() as events:
        task_id = await session.submit(**_LONG)
        for attempt in (1, 2):
            started = await events.until(task_id, "started")
            assert started["attempt"] == attempt
            deployment.services[started["worker"]].process.kill()
            deployment.start_worker(started["worker"], worker)
        aborted = await events.until(task_id, "aborted")
        assert aborted["code"] == "attempts_exhausted"
        assert "started 2 times" in aborted["reason"]
        follower = await session.submit(**_SHORT)
        assert (await events.of_task(follower))[-1]["event_type"] == "finished"
    await _assert_each_ended_once(nats, [task_id], "aborted")
