"""How long an event takes from its publishing until its client has it: thousands of websocket clients on one gateway
process, each with a session of its own, and events at a steady rate. Then all connect again, with what they missed.

The events and the clients come from another process, on the same machine: they cost a share of it. Goal: 100 ms (p99).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import secrets
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import psutil
import uvloop
from cpu_time import cpu_s
from pydantic import SecretStr
from table import check_goals, print_table
from websocket_clients import Clients

from sd_auth.tokens import Tokens
from sd_common.events import PendingEvent
from sd_common.nats_client import connect
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import StreamSettings
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from sd_embedded.child_process import ChildProcess
from sd_embedded.nats_server import NatsServer

_NUM_MISSED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--events", type=int, default=6000)
    parser.add_argument("--per-second", type=float, default=200.0)
    parser.add_argument("--check-goals", action="store_true", help="fail where a goal is missed")
    arguments = parser.parse_args()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # the gateway inherits it
    secret_key = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        nats = NatsServer(Path(directory))
        nats.start()
        try:
            uvloop.run(provision(nats.url))
            with gateway(Path(directory), nats.url, secret_key) as (base_url, process):
                rows = uvloop.run(measure(nats.url, base_url, secret_key, process, arguments))
        finally:
            nats.terminate()
    print_table([f"{arguments.clients:,} clients, {arguments.per_second:g} events a second", "measured", "goal"], rows)
    if arguments.check_goals:
        check_goals(rows)


@contextmanager
def gateway(directory: Path, nats_url: str, secret_key: str) -> Iterator[tuple[str, psutil.Process]]:
    """Where a gateway listens, and its process. An auth service is beside it, but no S3 server: events need none."""
    env = {"NATS_URL": nats_url, "SECRET_KEY": secret_key, "HEALTH_PORT": "off", "PORT": "0"}
    env |= {
        "MAX_CONNECTIONS_PER_ADDRESS": "100000",
        "MINIO_ACCESS_KEY": "none",
        "MINIO_SECRET_KEY": "none-at-all",
        "LOG_LEVEL": "INFO",
    }
    auth, log_file = (directory / "auth.log", directory / "gateway.log")
    processes = [ChildProcess([sys.executable, "-m", "sd_auth"], auth, cwd=directory, env=env)]
    try:
        processes[0].wait_until(lambda: "auth_started" in auth.read_text(), 60)
        processes.append(ChildProcess([sys.executable, "-m", "sd_gateway"], log_file, cwd=directory, env=env))
        processes[1].wait_until(lambda: "gateway_listening" in log_file.read_text(), 60)
        line = next(line for line in log_file.read_text().splitlines() if "gateway_listening" in line)
        yield f"http://127.0.0.1:{json.loads(line)['port']}", psutil.Process(processes[1].pid)
    finally:
        for process in reversed(processes):
            process.kill()


async def provision(nats_url: str) -> None:
    client = await connect(NatsSettings(_env_file=None, nats_url=SecretStr(nats_url)), "provision")
    await provision_streams(client.jetstream(), StreamSettings(_env_file=None))
    await client.shut()


async def measure(
    nats_url: str, base_url: str, secret_key: str, process: psutil.Process, arguments: argparse.Namespace
) -> list[list[str]]:
    nats = await connect(NatsSettings(_env_file=None, nats_url=SecretStr(nats_url)), "benchmark")
    task_log = TaskLog(nats)
    tokens = Tokens(SecretStr(secret_key), (), 240)
    minted = [tokens.mint(f"user-{number}").access_token for number in range(arguments.clients)]
    sessions = [session_of(token) for token in minted]
    clients = Clients(base_url, minted)
    memory_before = process.memory_info().rss
    connected_s = await timed_s(clients.connect(""))
    memory = process.memory_info().rss - memory_before
    cpu_before = cpu_s(process)
    published_at: dict[str, float] = {}
    published_s = await timed_s(publish(task_log, sessions, published_at, arguments.events, arguments.per_second))
    await clients.until_received(len(published_at))
    used_s = cpu_s(process) - cpu_before
    latencies_ms = [1000 * (at - published_at[task_id]) for task_id, at in clients.received_at.items()]
    last_sequence = await task_log.last_sequence()
    clients.disconnect()
    await publish(task_log, sessions, {}, _NUM_MISSED, 1000)
    missed_s = await timed_s(resume(clients, last_sequence, _NUM_MISSED))
    clients.disconnect()
    all_s = await timed_s(resume(clients, 0, arguments.events + _NUM_MISSED))
    clients.disconnect()
    await nats.shut()
    return [
        ["published to received p50, ms", f"{statistics.median(latencies_ms):.1f}", ""],
        ["p99, ms", f"{statistics.quantiles(latencies_ms, n=100)[-1]:.1f}", "≤ 100"],
        ["longest, ms", f"{max(latencies_ms):.1f}", ""],
        ["gateway's CPU time, ms a second", f"{1000 * used_s / published_s:.0f}", ""],
        ["its memory for a client, KB", f"{memory / 1024 / arguments.clients:.1f}", ""],
        ["all connected after, s", f"{connected_s:.1f}", ""],
        [f"again, with {_NUM_MISSED:,} events that they missed, s", f"{missed_s:.1f}", ""],
        [f"again, with all {arguments.events + _NUM_MISSED:,} events, s", f"{all_s:.1f}", ""],
    ]


async def publish(
    task_log: TaskLog,
    sessions: list[tuple[str, str]],
    published_at: dict[str, float],
    num_events: int,
    per_second: float,
) -> None:
    """Events of new tasks, each at its time, whether or not those before have arrived."""
    async with asyncio.TaskGroup() as group:
        started = time.perf_counter()
        for number in range(num_events):
            await asyncio.sleep(started + number / per_second - time.perf_counter())
            ref = TaskRef(*random.choice(sessions), str(uuid.uuid4()))
            published_at[ref.task_id] = time.perf_counter()
            group.create_task(task_log.append(ref, PendingEvent(task_id=ref.task_id, job_sequence=1), NO_EVENT))


async def resume(clients: Clients, since: int, num_events: int) -> None:
    await clients.connect(f"&since={since}")
    await clients.until_received(num_events)


async def timed_s(work: Awaitable[None]) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def session_of(token: str) -> tuple[str, str]:
    """The user and the session that a token stands for."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return str(claims["sub"]), str(claims["sid"])


if __name__ == "__main__":
    main()
