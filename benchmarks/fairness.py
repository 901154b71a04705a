"""How long one user's tasks keep another's waiting: one worker, with lanes and with one queue for all.

A guest submits one task behind a flood; and two users submit many at the same time, one after the other. Real servers
and the bundled model at 64 px with one step, so that the queue decides. Goal: the guest's is among the next 3 taken.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from nats.aio.msg import Msg
from pydantic import SecretStr
from table import print_table

from sd_common import subjects
from sd_common.blob_ids import new_blob_id
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.lanes import Lane, lane_of
from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Txt2ImgParameters
from sd_common.picture_bucket import RetentionSettings
from sd_common.provision import provision
from sd_common.streams import StreamSettings
from sd_embedded.nats_server import NatsServer
from sd_embedded.s3_server import S3Server
from sd_worker.app import WorkerApp
from sd_worker.settings import WorkerSettings

LaneOf = Callable[[int], Lane]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flood", type=int, default=500)
    parser.add_argument("--heavy", type=int, default=200, help="tasks of the first of two heavy users; the other: half")
    arguments = parser.parse_args()
    configure_logs(LogSettings(_env_file=None, log_level="ERROR"), "benchmark")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        nats, s3 = NatsServer(Path(directory)), S3Server(Path(directory), "benchmark", "benchmark-secret")
        nats.start()
        s3.start()
        try:
            with_lanes = asyncio.run(measure(nats, s3, lane_of, arguments))
            one_queue = asyncio.run(measure(nats, s3, lambda num_unfinished: "rest", arguments))
        finally:
            nats.terminate()
            s3.terminate()
    rows = [[name, with_lanes[name], one_queue[name]] for name in with_lanes]
    print_table(["", "lanes", "one queue"], rows)


async def measure(nats: NatsServer, s3: S3Server, lane: LaneOf, arguments: argparse.Namespace) -> dict[str, str]:
    async with users_of_a_worker(nats, s3, lane) as users:
        await users.submit("warm-up", 8)
        await users.until_all_ended()
        return await guest_behind_a_flood(users, arguments.flood) | await two_heavy_users(users, arguments.heavy)


async def guest_behind_a_flood(users: Users, num_tasks: int) -> dict[str, str]:
    flood = await users.submit("flood", num_tasks)
    num_before = users.num_started
    guest = await users.submit("guest")
    await users.until_all_ended()
    [number], [wait_s] = users.numbers(guest), users.waits_s(guest)
    return {
        f"a guest's task behind {num_tasks}: is taken as number": f"{number - num_before}",
        "its wait, s": f"{wait_s:.2f}",
        "its wait / the mean wait of those": f"{wait_s / statistics.mean(users.waits_s(flood)):.3f}",
    }


async def two_heavy_users(users: Users, num_tasks: int) -> dict[str, str]:
    num_later = num_tasks // 2
    earlier = await users.submit("earlier", num_tasks)
    num_before = users.num_started
    later = await users.submit("later", num_later)
    await users.until_all_ended()
    numbers = [number - num_before for number in users.numbers(later)]
    wait_ratio = statistics.mean(users.waits_s(later)) / statistics.mean(users.waits_s(earlier))
    return {
        f"{num_later} tasks behind another's {num_tasks}: the 1st is taken as number": f"{numbers[0]}",
        "the 8th": f"{numbers[7]}",
        "half of them": f"{numbers[num_later // 2 - 1]}",
        "the last": f"{numbers[-1]}",
        "their mean wait / that of the others": f"{wait_ratio:.2f}",
    }


class Users:
    """Submit as a gateway does, and hear what becomes of it."""

    def __init__(self, client: NatsClient, lane: LaneOf) -> None:
        self._queue = JobQueue(client)
        self._lane_of = lane
        self._num_unfinished = Counter[str]()
        self._submitted_at: dict[str, float] = {}
        #: When a worker took them, in this order.
        self._started_at: dict[str, float] = {}
        self._changed = asyncio.Event()

    @property
    def num_started(self) -> int:
        return len(self._started_at)

    async def submit(self, user: str, num_tasks: int = 1) -> list[str]:
        """The ids of the tasks, all queued."""
        jobs = [new_job(user) for _ in range(num_tasks)]
        publishing = []
        for job in jobs:
            self._submitted_at[job.task_id] = time.perf_counter()
            publishing.append(self._queue.publish(job, self._lane_of(self._num_unfinished[user])))
            self._num_unfinished[user] += 1
        await asyncio.gather(*publishing)
        return [job.task_id for job in jobs]

    async def until_all_ended(self) -> None:
        while self._num_unfinished.total():
            self._changed.clear()
            await self._changed.wait()

    def numbers(self, task_ids: list[str]) -> list[int]:
        """Which of all tasks that were taken these are, from 1, in order."""
        order = list(self._started_at)
        return sorted(order.index(task_id) + 1 for task_id in task_ids)

    def waits_s(self, task_ids: list[str]) -> list[float]:
        return [self._started_at[task_id] - self._submitted_at[task_id] for task_id in task_ids]

    async def on_feed(self, message: Msg) -> None:
        _, ref = subjects.parse_task_subject(message.subject)
        if b'"event_type":"started"' in message.data:
            self._started_at[ref.task_id] = time.perf_counter()
        if b'"event_type":"finished"' in message.data:
            self._num_unfinished[ref.user] -= 1
            self._changed.set()


def new_job(user: str) -> Job:
    parameters = Txt2ImgParameters(prompt="a red star", model="shapes", steps=1, width=64, height=64)
    return Job(task_id=str(uuid.uuid4()), user=user, session="session", blob_id=new_blob_id(), parameters=parameters)


@asynccontextmanager
async def users_of_a_worker(nats: NatsServer, s3: S3Server, lane: LaneOf) -> AsyncIterator[Users]:
    """Users of a service with one worker, which has the model in memory and runs one picture at a time."""
    settings, minio_settings = NatsSettings(_env_file=None, nats_url=SecretStr(nats.url)), s3.minio_settings()
    await provision(settings, StreamSettings(_env_file=None), minio_settings, RetentionSettings(_env_file=None))
    worker_settings = WorkerSettings(
        _env_file=None,
        base_url="http://localhost",
        model_dir=Path("models"),
        device="cpu",
        health_port=None,
        max_rows=2,
    )
    client = await connect(settings, "benchmark")
    users = Users(client, lane)
    await client.subscribe(subjects.FEED, cb=users.on_feed)
    worker = WorkerApp(worker_settings, settings, minio_settings)
    await worker.start()
    try:
        yield users
    finally:
        await worker.stop()
        await client.shut()


if __name__ == "__main__":
    main()
