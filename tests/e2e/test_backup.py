"""Everything is lost, and comes back from a backup made by the commands of docs/operations.md, under load."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sd_common.blob_store import BlobStore
from sd_common.nats_client import connect
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog
from support import servers
from support.client import Client
from support.deployment import Deployment, path_of_picture
from support.events import TERMINAL_TYPES
from support.jobs import until_no_jobs
from support.operations_page import commands, run_commands
from support.waiting import PATIENCE_S

_SHORT = {"prompt": "x", "model": "shapes", "steps": 2, "width": 64, "height": 64}
#: Some seconds on one core.
_LONG = {"prompt": "x", "model": "shapes", "steps": 300, "width": 128, "height": 128, "scheduler": "ddim"}


@asynccontextmanager
async def _running(deployment: Deployment) -> AsyncIterator[Client]:
    """All services over servers that have the streams, and a client without a token. Then all are killed."""
    try:
        deployment.start_auth({"ENABLE_SIGNUP": "1"})
        deployment.start_gateway()
        deployment.start_worker("one")
        async with Client(deployment.gateway_url()) as client:
            await client.until_ready()
            yield client
    finally:
        deployment.stop()


@pytest.mark.timeout(600)
async def test_users_pictures_and_queued_tasks_come_back_from_a_backup(
    tmp_path: Path, model_dir: Path, backend: str
) -> None:
    """A task that was running is run again; what was queued is run; each has one end."""
    with servers.nats_server_with_users() as nats, servers.s3_server(on=backend) as s3:
        deployment = Deployment(tmp_path / "lost", nats, s3.minio_settings("pictures"), model_dir)
        deployment.provision()
        async with _running(deployment) as client:
            await client.sign_up_and_log_in("alice")
            first_session = client.user_and_session
            async with client.events() as events:
                done = await client.submit(**_SHORT)
                finished = (await events.of_task(done))[-1]
                path = path_of_picture(finished)
                picture = await client.get(path)
                running = await client.submit(**_LONG)
                await events.until(running, "started")
                deployment.services["one"].process.send(signal.SIGSTOP)  # so it runs for as long as the backup takes
            queued = [await client.submit(**_SHORT) for _ in range(3)]
            run_commands(commands("What commands need") + commands("Save"), tmp_path, deployment.provision_env)
            assert (await client.last_event(running))["event_type"] == "started"
            after = await client.submit(**_SHORT)

    with servers.nats_server_with_users() as nats, servers.s3_server(on=backend) as s3:
        deployment = Deployment(tmp_path / "restored", nats, s3.minio_settings("pictures"), model_dir)
        run_commands(commands("What commands need") + commands("Restore"), tmp_path, deployment.provision_env)
        async with _running(deployment) as client:
            answer = await client.post("/token", data={"username": "alice", "password": "correct horse"})
            client.token = answer.json["access_token"]
            assert await client.last_event(done) == finished
            assert (await client.get(path)).body == picture.body
            async with BlobStore(s3.minio_settings("pictures")) as blobs:
                ref = TaskRef(*first_session, done)  # another attempt of it may still store its picture
                await blobs.put_made(path.rpartition("/")[2], picture.body, "image/png", ref)
            assert (await client.get(f"/task/{after}")).status == 404
            nats_client = await connect(servers.nats_settings_of(nats), "test")
            await until_no_jobs(nats_client, 2 * PATIENCE_S)
            told: dict[str, list[str]] = {task_id: [] for task_id in (done, running, *queued)}
            async for logged in TaskLog(nats_client).replay("events.>", 0):
                told[logged.ref.task_id].append(logged.event.event_type)
            await nats_client.shut()
    assert told[running][:2] == ["pending", "started"]
    for types in told.values():
        assert types[-1] == "finished"
        assert sum(Counter(types)[each] for each in TERMINAL_TYPES) == 1
