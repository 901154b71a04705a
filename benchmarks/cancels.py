"""How soon an order takes effect: a cancel of a queued and of a running task; and how soon another worker has what one
that is killed, or told to stop, has had.

The services are processes of their own, as operators run them. Goals stand in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from table import check_goals, print_table

from support import servers
from support.client import Client
from support.deployment import Deployment
from support.stack import Service
from support.waiting import PATIENCE_S

_TASK = {"prompt": "a big red star on a white background", "model": "shapes", "width": 128, "height": 128}
#: Longer than a worker takes to start.
_LONG = _TASK | {"steps": 500, "width": 256, "height": 256, "scheduler": "ddim"}
_ACK_WAIT_S = 3
#: Pictures of one pass, with guidance.
_NUM_IN_A_PASS = 4
_WORKER = {"JOB_ACK_WAIT_S": str(_ACK_WAIT_S), "MAX_ROWS": str(2 * _NUM_IN_A_PASS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=1000, help="tasks that wait while some are cancelled")
    parser.add_argument("--cancels", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="workers that are killed, and told to stop")
    parser.add_argument("--check-goals", action="store_true", help="fail where a goal is missed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers.nats_server() as nats, servers.s3_server() as s3:
        directory = Path(name)
        shutil.copytree("models/shapes", directory / "models" / "shapes")
        deployment = Deployment(directory / "services", nats, s3.minio_settings("cancels"), directory / "models")
        try:
            rows = asyncio.run(measure(deployment, arguments))
        finally:
            deployment.stop()
    print_table(["", "measured", "goal"], rows)
    if arguments.check_goals:
        check_goals(rows)


async def measure(deployment: Deployment, arguments: argparse.Namespace) -> list[list[str]]:
    deployment.provision()
    deployment.start_auth()
    deployment.start_gateway()
    async with Client(deployment.gateway_url()) as client:
        await client.until_ready()
        await client.take_public_token()
        queued_ms = await of_queued(client, arguments.queued, arguments.cancels)
        step_ms, running_ms = await of_running(client, deployment)
        killed_s = [await takeover_s(client, deployment) for _ in range(arguments.rounds)]
        told_s = [await handover_s(client, deployment) for _ in range(arguments.rounds)]
    cancel = f"cancel of one of {arguments.queued} queued tasks, DELETE to `aborted` on the websocket"
    percentiles = statistics.quantiles(queued_ms, n=100)
    return [
        [f"{cancel}, p50", f"{statistics.median(queued_ms):.1f} ms", "≤ 10 ms"],
        [f"{cancel}, p99", f"{percentiles[-1]:.1f} ms", "≤ 50 ms"],
        [
            f"cancel of a running task until its worker is done with it, p50; a step has {step_ms:.0f} ms",
            f"{statistics.median(running_ms):.0f} ms",
            f"≤ {step_ms + 20:.0f} ms",
        ],
        ["its slowest", f"{max(running_ms):.0f} ms", ""],
        [
            f"SIGKILL of a worker until another has started its task, ack_wait {_ACK_WAIT_S} s, slowest",
            f"{max(killed_s):.1f} s",
            f"≤ {_ACK_WAIT_S + 1} s",
        ],
        [
            "SIGTERM to a worker until another has started what it had not begun, slowest",
            f"{max(told_s):.2f} s",
            "≤ 1 s",
        ],
    ]


async def of_queued(client: Client, num_queued: int, num_cancels: int) -> list[float]:
    """Milliseconds of each cancel; no worker runs."""
    task_ids = [await client.submit(**_TASK) for _ in range(num_queued + num_cancels)]
    took_ms = []
    async with client.events() as events:
        for task_id in task_ids[::2][:num_cancels]:
            started_at = time.perf_counter()
            deleting = asyncio.ensure_future(client.delete(f"/task/{task_id}"))
            await events.until(task_id, "aborted")
            took_ms.append(1000 * (time.perf_counter() - started_at))
            assert (await deleting).status == 204
    for task_id in task_ids:
        await client.delete(f"/task/{task_id}")
    return took_ms


async def of_running(client: Client, deployment: Deployment) -> tuple[float, list[float]]:
    """Milliseconds of a step, and of each cancel until the worker logs that it is done with the task."""
    worker = await started_worker(deployment, "one")
    took_ms = []
    async with client.events("&progress=1") as events:
        task_id = await client.submit(**_LONG | {"steps": 50})
        finished = await events.until(task_id, "finished")
        for _ in range(20):
            task_id = await client.submit(**_LONG)
            while (await events.until(task_id, "progress"))["step"] < 2:
                pass
            cancelled_at = time.time()
            await client.delete(f"/task/{task_id}")
            await asyncio.to_thread(worker.wait_for_log, f'"task_id": "{task_id}"')
            took_ms.append(1000 * (done_at(worker.new_log, task_id) - cancelled_at))
    worker.process.kill()
    return 1000 * finished["timings"]["denoise_s"] / 50, took_ms


async def started_worker(deployment: Deployment, name: str) -> Service:
    """A worker that takes jobs. Meanwhile the websocket answers pings."""
    worker = deployment.start_worker(name, _WORKER)
    await asyncio.to_thread(worker.wait_for_log, "worker_started")
    return worker


def done_at(log: str, task_id: str) -> float:
    """When a worker was done with a task, as its log tells."""
    lines = [json.loads(line) for line in log.splitlines() if task_id in line]
    return datetime.fromisoformat(next(line for line in lines if line["event"] == "job")["time"]).timestamp()


async def takeover_s(client: Client, deployment: Deployment) -> float:
    """Seconds from a worker's SIGKILL until another has started its task."""
    for name in ("one", "two"):
        await started_worker(deployment, name)
    async with client.events() as events:
        task_id = await client.submit(**_LONG)
        first = await events.until(task_id, "started")
        deployment.services[first["worker"]].process.kill()
        killed_at = time.perf_counter()
        second = await events.until(task_id, "started")
        assert second["attempt"] == 2
        took_s = time.perf_counter() - killed_at
        await client.delete(f"/task/{task_id}")
    deployment.services[second["worker"]].process.kill()
    return took_s


async def handover_s(client: Client, deployment: Deployment) -> float:
    """Seconds from a worker's SIGTERM until another has started the task that waited for room in its engine."""
    await started_worker(deployment, "one")
    async with client.events() as events:
        task_ids = []
        for _ in range(_NUM_IN_A_PASS + 1):
            # Small ones: the pass under way ends before the engine hands anything back.
            task_ids.append(await client.submit(**_LONG | {"width": 128, "height": 128}))
            await events.until(task_ids[-1], "started")
        await started_worker(deployment, "two")
        deployment.services["one"].process.send(signal.SIGTERM)
        told_at = time.perf_counter()
        async with asyncio.timeout(PATIENCE_S):
            assert (await events.until(task_ids[-1], "started"))["worker"] == "two"
        took_s = time.perf_counter() - told_at
        for task_id in task_ids:
            await client.delete(f"/task/{task_id}")
    for name in ("one", "two"):
        deployment.services[name].process.kill()
    return took_s


if __name__ == "__main__":
    main()
