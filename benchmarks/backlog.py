"""What idle workers ask of nats-server: messages a second and its CPU time, with many job sources on connections of
their own; and how long it takes until one of them has a job.

A job of each model runs all the time, so that no look at the queue finds it empty. One more model is resident in all of
them: jobs of it are published one at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from cpu_time import cpu_s
from nats.aio.msg import Msg
from pydantic import SecretStr
from table import print_table

from sd_common import subjects
from sd_common.job_queue import JobQueue
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.puller import Puller
from sd_common.streams import JOBS, StreamSettings, jobs_consumer_name
from sd_common.subjects import ModelLane
from sd_embedded.nats_server import NatsServer
from sd_worker.engine.reports import ModelsHere
from sd_worker.job_source import JobSource

_SETTLED_AFTER_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--models", type=int, default=3, help="with a running job each")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory))
        server.start()
        try:
            rows = asyncio.run(measure(server, arguments))
        finally:
            server.terminate()
    print_table([f"{arguments.workers} idle workers, {arguments.models} models with a running job", ""], rows)


async def measure(server: NatsServer, arguments: argparse.Namespace) -> list[list[str]]:
    settings = NatsSettings(_env_file=None, nats_url=SecretStr(server.url))
    own = await connect(settings, "benchmark")
    await provision_streams(own.jetstream(), StreamSettings(_env_file=None))
    running = [await run_one(own, f"model-{number}") for number in range(arguments.models)]
    clients = [await connect(settings, "worker") for _ in range(arguments.workers)]
    sources = [JobSource(client, JobQueue(client), lambda: ModelsHere(["home"]), 30.0) for client in clients]
    taken: asyncio.Queue[float] = asyncio.Queue()

    async def work(source: JobSource) -> None:
        while True:
            job = await source.next()
            taken.put_nowait(time.perf_counter())
            await job.ack_sync()

    working = [asyncio.create_task(work(source)) for source in sources]
    await publish_one(own, taken)  # every model's consumer is there from now on
    await asyncio.sleep(_SETTLED_AFTER_S)
    process = psutil.Process(server.pid)
    num_before, cpu_before_s, started = num_sent(clients), cpu_s(process), time.perf_counter()
    await asyncio.sleep(arguments.seconds)
    took_s = time.perf_counter() - started
    num_asked, server_s = num_sent(clients) - num_before, cpu_s(process) - cpu_before_s
    latencies_ms = [await publish_one(own, taken) for _ in range(arguments.jobs)]
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)
    await asyncio.gather(*(source.close() for source in sources))
    for puller, job in running:
        await job.ack_sync()
        await puller.close()
    for client in (*clients, own):
        await client.shut()
    return [
        ["messages to the server a second", f"{num_asked / took_s:.0f}"],
        ["its CPU time, ms a second", f"{1000 * server_s / took_s:.0f}"],
        ["published to job in hand p50, ms", f"{statistics.median(latencies_ms):.1f}"],
        ["published to job in hand p99, ms", f"{statistics.quantiles(latencies_ms, n=100)[-1]:.1f}"],
    ]


async def run_one(client: NatsClient, model: str) -> tuple[Puller, Msg]:
    """Publish a job, and take it as a worker that runs it. Its `ack_wait` is longer than the benchmark."""
    lane = ModelLane(model_key(model), "first")
    await client.jetstream().publish(lane.jobs, b"running")
    await JobQueue(client).create_consumer(lane)
    puller = Puller(client, JOBS, jobs_consumer_name(lane))
    await puller.start()
    job = await puller.next(5)
    assert job is not None
    return puller, job


async def publish_one(client: NatsClient, taken: asyncio.Queue[float]) -> float:
    """Milliseconds from publishing a job to its being taken."""
    started = time.perf_counter()
    await client.jetstream().publish(subjects.jobs_of("home", "first"), b"job")
    took_ms = 1000 * (await taken.get() - started)
    await asyncio.sleep(0.01)  # its worker has acknowledged it, and pulls again
    return took_ms


def num_sent(clients: list[NatsClient]) -> int:
    return sum(client.stats["out_msgs"] for client in clients)


if __name__ == "__main__":
    main()
