"""What a task that waits in the engine takes in memory: 1,000 of them, behind one that runs.

Goal: bounded. Prints kilobytes a task.
"""

from __future__ import annotations

import gc
import queue
from pathlib import Path

import psutil
import torch
from engine import WORDS
from table import print_table

from sd_common.parameters import Txt2ImgParameters
from sd_worker.engine.devices import Device
from sd_worker.engine.engine_thread import EngineThread, Listeners
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import EngineTask, Progress

NUM_TASKS = 1_000


def main() -> None:
    steps: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_progress(progress: Progress) -> None:
        if progress.step:
            steps.put(progress.step)

    device = Device(torch.device("cpu"), torch.float32)
    models = Models(ModelSource(Path("models"), dtype=torch.float32), device)
    engine = EngineThread(models, RowCaps(device, fixed=2), Listeners(on_progress, lambda outcome: None))
    engine.start()
    engine.submit(task("running", 0))
    steps.get(timeout=60)
    before = resident_bytes()
    for number in range(NUM_TASKS):
        engine.submit(task(f"waiting-{number}", number))
    last = steps.get(timeout=60)
    while steps.get(timeout=60) < last + 5:  # the engine has taken them, and looks at them every time
        pass
    after = resident_bytes()
    engine.stop(60)
    rows = [[f"{NUM_TASKS:,} waiting tasks", f"{(after - before) / 1024 / NUM_TASKS:.1f}"]]
    print_table(["", "KB a task"], rows)


def task(task_id: str, number: int) -> EngineTask:
    parameters = Txt2ImgParameters(prompt=WORDS[number % len(WORDS)], model="shapes", steps=500, width=256, height=256)
    return EngineTask(task_id, parameters, seed=number)


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
