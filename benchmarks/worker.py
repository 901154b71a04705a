"""A whole worker, saturated, against the bare engine: what NATS, S3, events and progress cost in pictures a second.

The services are processes of their own, as operators run them. Once the engine has all cores, of which the rest then
takes some, and once one fewer, as where the engine has a GPU: the goal of at least 0.95 is for that. The bare engine
runs the same tasks, in turns with the worker, and with the same row cap. Processes that do the same differ by a tenth,
so there are several of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from apart import Apart
from engine import Arrival, BareEngine
from table import print_table

from sd_worker.__main__ import let_waiting_threads_sleep
from sd_worker.engine.devices import Device
from support import servers
from support.deployment import Deployment

MAX_ROWS = 32
_NUM_PROCESSES = 3
_TURNS = 2
PROMPT = "a big red star on a white background"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=96)
    num_tasks = parser.parse_args().tasks
    let_waiting_threads_sleep()  # in the bare engine's processes, too
    most = os.cpu_count() or 1
    rows = []
    for num_cores in sorted({most, max(1, most - 1)}):
        measured = [measure(num_tasks, num_cores) for _ in range(_NUM_PROCESSES)]
        bare, whole = map(statistics.median, zip(*measured, strict=True))
        goal = "≥ 0.95" if num_cores < most else ""
        rows.append([f"{num_cores} of {most}", f"{bare:.2f}", f"{whole:.2f}", f"{whole / bare:.2f}", goal])
    print_table(["cores of the engine", "pictures/s, bare engine", "whole worker", "ratio", "goal"], rows)


def measure(num_tasks: int, num_cores: int) -> tuple[float, float]:
    """Pictures per second of the bare engine and of the whole worker: the best of some turns."""
    device = Device(torch.device("cpu"), torch.float32)
    engine = Apart(partial(BareEngine, Path("models/shapes"), 128, device, MAX_ROWS), num_cores)
    tasks = [Arrival(0.0, PROMPT, seed, 20) for seed in range(num_tasks)]
    bare, whole = [], []
    with running_services({"MAX_ROWS": str(MAX_ROWS), "CPU_CORES": str(num_cores)}) as base_url:
        engine.ask(BareEngine.serve, tasks[:8])  # loads
        of_service(base_url, 8)
        for _ in range(_TURNS):
            bare.append(engine.ask(BareEngine.serve, tasks).pictures_per_s)
            whole.append(of_service(base_url, num_tasks))
    engine.ask(BareEngine.stop)
    engine.stop()
    return max(bare), max(whole)


@contextlib.contextmanager
def running_services(worker_env: Mapping[str, str]) -> Iterator[str]:
    """One of each, until the context is left. Where the gateway is."""
    with tempfile.TemporaryDirectory() as directory, servers.nats_server() as nats, servers.s3_server() as s3:
        deployment = Deployment(Path(directory), nats, s3.minio_settings("worker"), Path("models").resolve())
        try:
            deployment.provision()
            deployment.start_auth()
            deployment.start_gateway()
            deployment.start_worker("worker", worker_env)
            deployment.wait_until_ready()
            yield deployment.gateway_url()
        finally:
            deployment.stop()


def of_service(base_url: str, num_tasks: int) -> float:
    """Pictures per second, from the first task's start to the last one's end, as their events tell."""
    parameters = {
        "prompt": PROMPT,
        "model": "shapes",
        "params_type": "txt2img",
        "steps": 20,
        "guidance": 5.0,
        "scheduler": "ddim",
    }
    task_ids = [
        ask(f"{base_url}/task", {**parameters, "width": 128, "height": 128, "seed": seed}) for seed in range(num_tasks)
    ]
    ended = [wait_for_end(base_url, task_id) for task_id in task_ids]
    ends = [datetime.fromisoformat(event["time"]).timestamp() for event in ended]
    began = min(
        end - sum(seconds for name, seconds in event["timings"].items() if name != "queue_s")
        for end, event in zip(ends, ended, strict=True)
    )
    return float(num_tasks / (max(ends) - began))


def wait_for_end(base_url: str, task_id: str) -> Any:
    """The task's `finished` event."""
    while (event := ask(f"{base_url}/task/{task_id}"))["event_type"] != "finished":
        assert event["event_type"] != "aborted", event
        time.sleep(0.2)
    return event


def ask(url: str, body: object = None) -> Any:
    """The JSON that a request is answered with."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
