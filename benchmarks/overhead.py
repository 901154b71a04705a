"""What an idle system adds to the pipeline's own time: `GET /txt2img` against diffusers, interleaved in one run.

Prints a table in milliseconds. Goal: at most 25 ms (p50).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from importlib import import_module

from stack import embedded_stack
from table import print_table

PARAMETERS = {
    "prompt": "a big red star on a white background",
    "model": "shapes",
    "width": 128,
    "height": 128,
    "steps": 20,
    "scheduler": "ddim",
    "guidance": 5.0,
    "seed": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    run_pipeline = create_pipeline()
    with embedded_stack({"ENABLE_PUBLIC_ACCESS": "1"}) as stack:
        url = f"{stack.base_url}/txt2img?{urllib.parse.urlencode(PARAMETERS)}"
        pipeline_ms, request_ms = [], []
        for round_number in range(rounds + 3):
            own, whole = timed_ms(run_pipeline), timed_ms(lambda: fetch(url))
            if round_number >= 3:  # the first ones load and warm up
                pipeline_ms.append(own)
                request_ms.append(whole)
    added = statistics.median(request_ms) - statistics.median(pipeline_ms)
    rows = [
        ["diffusers pipeline", *quantiles(pipeline_ms)],
        ["GET /txt2img", *quantiles(request_ms)],
        ["added (p50), goal 25", f"{added:.1f}", ""],
    ]
    print_table(["ms", "p50", "p95"], rows)


def create_pipeline() -> Callable[[], None]:
    """The stock pipeline over the bundled model, as the worker runs it."""
    torch, diffusers = import_module("torch"), import_module("diffusers")
    torch.set_num_threads(os.cpu_count() or 1)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained("models/shapes", dtype=torch.float32)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)

    def run() -> None:
        with torch.inference_mode():
            pipeline(
                PARAMETERS["prompt"],
                width=PARAMETERS["width"],
                height=PARAMETERS["height"],
                num_inference_steps=PARAMETERS["steps"],
                guidance_scale=PARAMETERS["guidance"],
                generator=torch.Generator("cpu").manual_seed(PARAMETERS["seed"]),
            )

    return run


def fetch(url: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as response:
        assert "blob_url" in json.load(response)


def timed_ms(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def quantiles(values: list[float]) -> list[str]:
    return [f"{statistics.median(values):.1f}", f"{statistics.quantiles(values, n=20)[-1]:.1f}"]


if __name__ == "__main__":
    main()
