"""How often two workers load models: 300 tasks of three models, interleaved; each worker has memory for one of them.

Against first come first served, of which the loads are counted: two workers that take the tasks in their order.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from stack import embedded_stack
from table import print_table
from worker import ask, wait_for_end

MODELS = ("a", "b", "c")
NUM_TASKS = 300
#: Tasks and loads are a tenth as long as those of a Stable Diffusion on a GPU, and so are the turns of models.
SWAP_AFTER_S = 3


def main() -> None:
    models = [MODELS[number % len(MODELS)] for number in range(NUM_TASKS)]
    random.Random(1).shuffle(models)
    with tempfile.TemporaryDirectory() as directory:
        for model in MODELS:
            shutil.copytree("models/shapes", Path(directory) / "models" / model)
        env = {
            "ENABLE_PUBLIC_ACCESS": "1",
            "WORKERS": "2",
            "MODEL_DIR": str(Path(directory) / "models"),
            "MODEL_MEMORY_BUDGET": "1",  # a model beyond the budget is loaded alone
            "MODEL_SWAP_AFTER_S": str(SWAP_AFTER_S),
            "LOG_LEVEL": "INFO",
        }
        with embedded_stack(env) as stack:
            submit_all(stack.base_url, models)
            loads = stack.log.count("model loaded")
    first_come = num_loads_of_first_come(models)
    rows = [["model loads", str(loads), str(first_come), f"{loads / first_come:.2f}", "≤ 0.2"]]
    print_table([f"{NUM_TASKS} tasks", "here", "first come first served", "ratio", "goal"], rows)


def submit_all(base_url: str, models: list[str]) -> None:
    """Returns when every task has its picture."""
    parameters = {"prompt": "a red star", "params_type": "txt2img", "steps": 5, "width": 64, "height": 64}
    task_ids = [
        ask(f"{base_url}/task", {**parameters, "model": model, "seed": seed}) for seed, model in enumerate(models)
    ]
    for task_id in task_ids:
        wait_for_end(base_url, task_id)


def num_loads_of_first_come(models: list[str]) -> int:
    """Of two workers that take the tasks one by one, in turn."""
    held = ["", ""]
    num_loads = 0
    for number, model in enumerate(models):
        worker = number % len(held)
        num_loads += held[worker] != model
        held[worker] = model
    return num_loads


if __name__ == "__main__":
    main()
