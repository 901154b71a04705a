"""Engines without a GPU that share a machine's cores: pictures per second of all together, saturated.

By how often threads look for each other before they sleep (`GOMP_SPINCOUNT`; 0: they sleep at once, 300,000: what GNU's
OpenMP does by itself), and by the cores that each engine computes on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from apart import Apart
from engine import Arrival, BareEngine
from table import print_table
from worker import MAX_ROWS, PROMPT

from sd_worker.engine.devices import Device

SPIN_COUNTS = (0, 5_000, 300_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=48, help="of each engine")
    tasks = [Arrival(0.0, PROMPT, seed, 20) for seed in range(parser.parse_args().tasks)]
    all_cores = os.cpu_count() or 1
    rows = []
    for num_engines, num_cores in ((1, all_cores), (2, all_cores), (2, max(1, all_cores // 2))):
        measured = [f"{pictures_per_s(tasks, num_engines, num_cores, spins):.1f}" for spins in SPIN_COUNTS]
        rows.append([str(num_engines), str(num_cores), *measured])
    print_table(["engines", "cores of each", *(f"spin count {spins}" for spins in SPIN_COUNTS)], rows)


def pictures_per_s(tasks: Sequence[Arrival], num_engines: int, num_cores: int, spin_count: int) -> float:
    os.environ["GOMP_SPINCOUNT"] = str(spin_count)  # read by new processes
    device = Device(torch.device("cpu"), torch.float32)
    create = partial(BareEngine, Path("models/shapes"), 128, device, MAX_ROWS)
    engines = [Apart(create, num_cores) for _ in range(num_engines)]

    def serve(engine: Apart[BareEngine]) -> None:
        engine.ask(BareEngine.serve, tasks)

    with ThreadPoolExecutor(num_engines) as asking:
        for engine in engines:
            engine.ask(BareEngine.serve, tasks[:2])  # loads
        started_at = time.perf_counter()
        list(asking.map(serve, engines))
        seconds = time.perf_counter() - started_at
    for engine in engines:
        engine.ask(BareEngine.stop)
        engine.stop()
    return num_engines * len(tasks) / seconds


if __name__ == "__main__":
    main()
