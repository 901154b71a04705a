"""The whole service, saturated, against the bare engine: what NATS, S3, events and progress cost in pictures a second.

The bare engine runs the same tasks in this process, before and after. Goal: at least 0.95.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from engine import Arrival, BareEngine
from stack import embedded_stack
from table import print_table

from sd_worker.engine.devices import Device

PROMPT = "a big red star on a white background"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=120)
    num_tasks = parser.parse_args().tasks
    torch.set_num_threads(os.cpu_count() or 1)
    before = of_engine(num_tasks)
    with embedded_stack({"ENABLE_PUBLIC_ACCESS": "1"}) as stack:
        of_service(stack.base_url, 8)  # loads, and measures the row cap
        whole = max(of_service(stack.base_url, num_tasks) for _ in range(2))
    bare = max(before, of_engine(num_tasks))
    rows = [
        ["bare engine", f"{bare:.2f}", ""],
        ["whole service", f"{whole:.2f}", ""],
        ["ratio", f"{whole / bare:.2f}", "≥ 0.95"],
    ]
    print_table(["pictures per second", "", "goal"], rows)


def of_engine(num_tasks: int) -> float:
    """Pictures per second."""
    engine = BareEngine(Path("models/shapes"), 128, Device(torch.device("cpu"), torch.float32))
    tasks = [Arrival(0.0, PROMPT, seed, 20) for seed in range(num_tasks)]
    engine.serve(tasks[:8])
    measured = engine.serve(tasks)
    engine.stop()
    return measured.pictures_per_s


def of_service(base_url: str, num_tasks: int) -> float:
    """Pictures per second, from the first task's start to the last one's end, as their events tell."""
    parameters = {"prompt": PROMPT, "params_type": "txt2img", "steps": 20, "guidance": 5.0, "scheduler": "ddim"}
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
