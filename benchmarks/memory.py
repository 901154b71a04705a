"""What a worker's process takes in memory in the long run: tasks of three models in turn, of which memory holds two, so
that each is loaded again and again.

The models are tiny, so that what is kept by mistake shows. Goal: 5 % of growth between the warm-up and the end.
"""

from __future__ import annotations

import argparse
import itertools
import queue
import sys
import tempfile
from pathlib import Path

import psutil
import torch
from table import print_table

from sd_common.parameters import Txt2ImgParameters
from sd_worker.engine.devices import Device
from sd_worker.engine.engine_thread import EngineThread, Listeners
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import EngineTask, Finished, Outcome
from support import tiny_pipelines
from support.read_model import read_model

MOST_GROWTH = 0.05
#: Tasks of a model in a row, of sizes and prompts that are all different.
_NUM_PER_TURN = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=100, help="tasks before the first look")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # such small pictures gain nothing from more
    with tempfile.TemporaryDirectory() as directory:
        growth, rows = measure(Path(directory), arguments.warm_up, arguments.tasks)
    print_table([f"{arguments.tasks} tasks of three models, two in memory", "RSS, MB"], rows)
    if growth > MOST_GROWTH:
        sys.exit(f"Memory has grown by {growth:.1%}")


def measure(model_dir: Path, num_warm_up: int, num_tasks: int) -> tuple[float, list[list[str]]]:
    """The growth, as a share, and a row for each quarter."""
    names = [
        path.name
        for path in (
            tiny_pipelines.save_sd1(model_dir / "sd1"),
            tiny_pipelines.save_sd2(model_dir / "sd2"),
            tiny_pipelines.save_sdxl(model_dir / "sdxl"),
        )
    ]
    source = ModelSource(model_dir, dtype=torch.float32)
    two_models = sum(sorted(read_model(source, name).num_bytes for name in names)[1:])
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    device = Device(torch.device("cpu"), torch.float32)
    models = Models(source, device, budget_bytes=two_models)
    engine = EngineThread(models, RowCaps(device, fixed=8), Listeners(lambda progress: None, outcomes.put))
    engine.start()
    numbers = itertools.count()

    def run(num: int) -> int:
        for _ in range(num):
            number = next(numbers)
            engine.submit(task(names[number // _NUM_PER_TURN % len(names)], number))
            outcome = outcomes.get(timeout=60)
            assert isinstance(outcome, Finished), outcome
        return psutil.Process().memory_info().rss

    looks = [run(num_warm_up), *(run(num_tasks // 4) for _ in range(4))]
    engine.stop(60)
    growth = looks[-1] / looks[0] - 1
    rows = [["after the warm-up", f"{looks[0] / 2**20:.0f}"]]
    rows += [[f"after {quarter}/4", f"{rss / 2**20:.0f}"] for quarter, rss in enumerate(looks[1:], start=1)]
    return growth, [*rows, [f"growth (goal ≤ {MOST_GROWTH:.0%})", f"{growth:.1%}"]]


def task(model: str, number: int) -> EngineTask:
    side = 64 + 8 * (number % 9)
    parameters = Txt2ImgParameters(prompt=f"picture {number}", model=model, steps=3, width=side, height=side)
    return EngineTask(str(number), parameters, seed=number)


if __name__ == "__main__":
    main()
