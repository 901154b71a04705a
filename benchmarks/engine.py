"""The engine against diffusers' pipeline, one task at a time and in static batches: latency, pictures per second.

All in one run, so that the ratios hold on a noisy machine. Arrivals are the same for all: exponential gaps, steps from
10 to 50. A static batch is what waits when the device is free, up to the best size, padded to the most steps in it.

Loads are in parts of what one at a time can do. At 150 % no server can be more than 1.5 times as fast, since no more is
asked of it: how much more the engine can do is seen at 400 %.

Each has a process of its own, and waits while the other is measured: in one, the threads of both would slow each other
down (`sd_worker.engine.cores`).
"""

from __future__ import annotations

import argparse
import math
import queue
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from apart import Apart
from random_models import MID, SD_1_5, save_random_model
from table import print_table

from sd_common.parameters import Txt2ImgParameters
from sd_worker.engine.devices import Device
from sd_worker.engine.engine_thread import EngineThread, Listeners
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.schedulers import create_scheduler
from sd_worker.engine.tasks import EngineTask, Finished, Outcome

diffusers = import_module("diffusers")

STATIC_SIZES = (1, 4, 8, 16, 32)
_SATURATED_TURNS = 3
WORDS = [
    f"a big {colour} {shape} on a {background} background"
    for colour in ("red", "green", "blue")
    for shape in ("star", "circle", "heart")
    for background in ("white", "yellow")
]


@dataclass(frozen=True)
class Arrival:
    """A picture that somebody wants at `at_s` seconds."""

    at_s: float
    prompt: str
    seed: int
    steps: int


@dataclass(frozen=True)
class Measured:
    """Seconds from arrival to picture, and pictures per second from the first arrival to the last picture."""

    latencies_s: list[float]
    pictures_per_s: float

    @property
    def p95_s(self) -> float:
        return statistics.quantiles(self.latencies_s, n=20)[-1]

    @property
    def p50_s(self) -> float:
        return statistics.median(self.latencies_s)


class Stock:
    """diffusers' own pipeline, in batches of up to `batch_size`."""

    def __init__(self, directory: Path, side: int, device: Device) -> None:
        self._pipeline = diffusers.DiffusionPipeline.from_pretrained(directory, dtype=device.dtype)
        self._pipeline.to(device.torch_device)
        self._pipeline.set_progress_bar_config(disable=True)
        self._own_scheduler = self._pipeline.scheduler
        self._side = side

    @torch.inference_mode()
    def generate(self, arrivals: Sequence[Arrival]) -> None:
        steps = max(arrival.steps for arrival in arrivals)
        self._pipeline.scheduler = create_scheduler("ddim", self._own_scheduler)
        self._pipeline(
            [arrival.prompt for arrival in arrivals],
            width=self._side,
            height=self._side,
            num_inference_steps=steps,
            guidance_scale=5.0,
            generator=[torch.Generator("cpu").manual_seed(arrival.seed) for arrival in arrivals],
        )

    def serve(self, arrivals: Sequence[Arrival], batch_size: int) -> Measured:
        """Take what has come, up to `batch_size`, whenever the device is free."""
        left, latencies_s = list(arrivals), []
        started_at = time.perf_counter()
        while left:
            now_s = time.perf_counter() - started_at
            if left[0].at_s > now_s:
                time.sleep(left[0].at_s - now_s)
                continue
            batch = [arrival for arrival in left[:batch_size] if arrival.at_s <= now_s]
            self.generate(batch)
            left = left[len(batch) :]
            ended_s = time.perf_counter() - started_at
            latencies_s += [ended_s - arrival.at_s for arrival in batch]
        return Measured(latencies_s, len(arrivals) / (time.perf_counter() - started_at))


class BareEngine:
    """The engine without a worker around it."""

    def __init__(self, directory: Path, side: int, device: Device, max_rows: int | None = None) -> None:
        """`max_rows` None: as measured."""
        self._outcomes: queue.Queue[tuple[float, Outcome]] = queue.Queue()
        source = ModelSource(directory.parent, dtype=device.dtype)
        listeners = Listeners(lambda _: None, lambda outcome: self._outcomes.put((time.perf_counter(), outcome)))
        self._engine = EngineThread(Models(source, device), RowCaps(device, max_rows), listeners)
        self._model, self._side = directory.name, side
        self._num_submitted = 0
        self._engine.start()

    def serve(self, arrivals: Sequence[Arrival]) -> Measured:
        started_at = time.perf_counter()
        due_at: dict[str, float] = {}

        def submit() -> None:
            for arrival in arrivals:
                time.sleep(max(0.0, started_at + arrival.at_s - time.perf_counter()))
                task = self._task(arrival)
                due_at[task.task_id] = started_at + arrival.at_s
                self._engine.submit(task)

        thread = threading.Thread(target=submit)
        thread.start()
        latencies_s = []
        for _ in arrivals:
            ended_at, outcome = self._outcomes.get(timeout=600)
            assert isinstance(outcome, Finished), outcome
            latencies_s.append(ended_at - due_at[outcome.task_id])
        thread.join()
        return Measured(latencies_s, len(arrivals) / (time.perf_counter() - started_at))

    def stop(self) -> None:
        self._engine.stop(60)

    def _task(self, arrival: Arrival) -> EngineTask:
        self._num_submitted += 1
        parameters = Txt2ImgParameters(
            prompt=arrival.prompt,
            model=self._model,
            width=self._side,
            height=self._side,
            steps=arrival.steps,
            guidance=5.0,
            scheduler="ddim",
        )
        return EngineTask(f"task-{self._num_submitted}", parameters, arrival.seed)


def poisson(num: int, rate: float, rng: random.Random) -> list[Arrival]:
    """`num` arrivals at `rate` a second."""
    at_s, arrivals = 0.0, []
    for seed in range(num):
        at_s += rng.expovariate(rate)
        arrivals.append(Arrival(at_s, rng.choice(WORDS), seed, rng.randint(10, 50)))
    return arrivals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=64, help="with the bundled model; 0: without")
    parser.add_argument(
        "--large-tasks", type=int, default=24, help="with the mid-size one, on a GPU that of SD 1.5's size; 0: without"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = Device(
        torch.device(arguments.device), torch.float16 if arguments.device.startswith("cuda") else torch.float32
    )
    rows = measure("shapes", Path("models/shapes"), 128, arguments.tasks, device, "≤ 0.5") if arguments.tasks else []
    if arguments.large_tasks:
        size, p95_goal = (SD_1_5, "≤ 0.4") if device.torch_device.type == "cuda" else (MID, "")
        with TemporaryDirectory() as directory:
            model_dir = save_random_model(Path(directory) / "random", size)
            rows += measure(size.name, model_dir, size.side, arguments.large_tasks, device, p95_goal)
    print_table(["model", "load", "what", "engine", "other", "ratio", "goal"], rows)


def measure(name: str, directory: Path, side: int, num_tasks: int, device: Device, p95_goal: str) -> list[list[str]]:
    """The rows of one model. `p95_goal`: against one at a time."""
    stock = Apart(partial(Stock, directory, side, device))
    engine = Apart(partial(BareEngine, directory, side, device))
    rng = random.Random(1)
    num_uniform = math.ceil(num_tasks / max(STATIC_SIZES)) * max(STATIC_SIZES)  # nobody's last pass is half empty
    uniform = [replace(arrival, at_s=0.0, steps=20) for arrival in poisson(num_uniform, 1.0, rng)]
    engine.ask(BareEngine.serve, uniform[:2])  # loads, and measures the row caps
    stock.ask(Stock.generate, uniform[:1])

    # Whole batches of each size.
    rates = {size: stock.ask(Stock.serve, uniform[: max(size, 8)], size).pictures_per_s for size in STATIC_SIZES}
    best_size = max(rates, key=lambda size: rates[size])
    # In turns, and the best of each: another program may have had the processor.
    best = most = 0.0
    for _ in range(_SATURATED_TURNS):
        most = max(most, engine.ask(BareEngine.serve, uniform).pictures_per_s)
        best = max(best, stock.ask(Stock.serve, uniform, best_size).pictures_per_s)
    rows = [_row(name, "saturated", f"pictures/s, static batches of {best_size}", most, best, "≥ 0.97")]

    tasks = poisson(num_tasks, 1.0, random.Random(2))
    # Of these very tasks, right before: the rate of single pictures changes by half within an hour.
    capacity = stock.ask(Stock.serve, [replace(task, at_s=0.0) for task in tasks], 1).pictures_per_s
    for load in (0.8, 1.5, 4.0):
        arrivals = [replace(task, at_s=task.at_s / (load * capacity)) for task in tasks]
        shared, alone = engine.ask(BareEngine.serve, arrivals), stock.ask(Stock.serve, arrivals, 1)
        batched = stock.ask(Stock.serve, arrivals, best_size)
        share = f"{load:.0%} of one at a time"
        goals = (p95_goal, "≤ 0.75", "") if load < 1 else ("", "", "≥ 1.8" if load > 2 else "")
        rows += [
            _row(name, share, "p95 s, one at a time", shared.p95_s, alone.p95_s, goals[0]),
            _row(name, share, "p50 s, one at a time", shared.p50_s, alone.p50_s, ""),
            _row(name, share, f"p95 s, static batches of {best_size}", shared.p95_s, batched.p95_s, goals[1]),
            _row(name, share, "pictures/s, one at a time", shared.pictures_per_s, alone.pictures_per_s, goals[2]),
        ]
    engine.ask(BareEngine.stop)
    engine.stop()
    stock.stop()
    return rows


def _row(model: str, load: str, what: str, engine: float, other: float, goal: str) -> list[str]:
    return [model, load, what, f"{engine:.2f}", f"{other:.2f}", f"{engine / other:.2f}", goal]


if __name__ == "__main__":
    main()
