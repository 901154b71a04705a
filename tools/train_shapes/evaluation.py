"""Measures how well a model draws what it is asked for, on scenes that no training picture showed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import get_args

import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from sd_common.parameters import SchedulerName
from sd_worker.engine.schedulers import create_scheduler
from train_shapes.captions import caption
from train_shapes.judge import Reading, read
from train_shapes.safety_checker import spoiled
from train_shapes.scenes import Drawing, Scene, held_out_scenes, place_in_picture, random_scene

SEED = 20_000
NUM_STEPS = 20
#: Pictures made at a time.
BATCH_SIZE = 16


@dataclass(frozen=True)
class Setting:
    """What the pictures of one row of the table are asked for with."""

    scheduler: SchedulerName
    guidance: float
    side: int
    steps: int = NUM_STEPS


@dataclass(frozen=True)
class Score:
    """Shares of the pictures, from 0 to 1, that show what was asked for."""

    colours: float
    shape: float
    all_right: float
    place: float
    #: Mean gradient at the contour, of that of the drawn picture.
    edges: float

    def row(self, name: str) -> str:
        """It as a row of a Markdown table."""
        shares = (self.colours, self.shape, self.all_right, self.place)
        return f"| {name} | " + " | ".join(f"{share:.1%}" for share in shares) + f" | {self.edges:.2f} |"


TABLE_HEAD = "| | both colours | shape | all right | and place | edges |\n|---|---|---|---|---|---|"


def load(path: Path, device: torch.device) -> StableDiffusionPipeline:
    """The model as anyone would load it, without its safety checker, which is measured apart."""
    pipeline = AutoPipelineForText2Image.from_pretrained(
        path, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, local_files_only=True
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def asked_scenes(num_scenes: int) -> list[tuple[Scene, str]]:
    """The held-out scenes that every setting is asked for, with their prompts."""
    rng = random.Random(SEED)
    return [(scene, caption(scene, rng)) for scene in islice(held_out_scenes(rng), num_scenes)]


def pictures_of(pipeline: StableDiffusionPipeline, prompts: Sequence[str], setting: Setting) -> list[Image.Image]:
    """One picture for each prompt; the n-th has seed `SEED` + n."""
    pipeline.scheduler = create_scheduler(setting.scheduler, pipeline.scheduler)
    pictures: list[Image.Image] = []
    batch_size = max(1, BATCH_SIZE * 128 * 128 // setting.side**2)
    for start in tqdm(range(0, len(prompts), batch_size), desc=str(setting), leave=False):
        numbers = range(start, min(start + batch_size, len(prompts)))
        pictures += pipeline(
            list(prompts[start : start + batch_size]),
            width=setting.side,
            height=setting.side,
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance,
            generator=[torch.Generator().manual_seed(SEED + number) for number in numbers],
        ).images
    return pictures


def score(scenes: Sequence[Scene], pictures: Iterable[Image.Image], drawings: Iterable[Drawing]) -> Score:
    """How the pictures agree with the scenes; `drawings` say how hard an edge is that is drawn."""
    readings = [read(picture) for picture in pictures]
    pairs = list(zip(readings, scenes, strict=True))
    return Score(
        colours=mean(reading.colours_agree(scene) for reading, scene in pairs),
        shape=mean(reading.shape == scene.shape for reading, scene in pairs),
        all_right=mean(reading.agrees(scene) for reading, scene in pairs),
        place=mean(reading.agrees(scene) and reading.place_agrees(scene) for reading, scene in pairs),
        edges=_mean_gradient(readings) / _mean_gradient([read(drawing.picture()) for drawing in drawings]),
    )


def evaluate(model: Path, device: torch.device, *, num_prompts: int, settings: Sequence[Setting]) -> None:
    """Prints the tables of the model card."""
    asked = asked_scenes(num_prompts)
    scenes = [scene for scene, _ in asked]
    prompts = [prompt for _, prompt in asked]
    pipeline = load(model, device)
    print(f"{num_prompts} prompts of combinations that training did not show, {NUM_STEPS} steps\n")
    print(TABLE_HEAD)
    print(_score_of_drawn(scenes, 128).row("the judge on drawn pictures"))
    for setting in settings:
        name = f"{setting.scheduler}, guidance {setting.guidance:g}, {setting.side} px"
        pictures = pictures_of(pipeline, prompts, setting)
        print(score(scenes, pictures, drawn(scenes, setting.side)).row(name), flush=True)
    print()
    print(f"- one {NUM_STEPS}-step picture: {_seconds_of_one_picture(pipeline, settings[0]):.2f} s")
    print(f"- size: {sum(file.stat().st_size for file in model.rglob('*') if file.is_file()) / 1e6:.1f} MB")
    recall, false_alarms = _safety_checker_rates(model, num_pictures=400)
    print(
        f"- safety checker on drawn pictures: flags {recall:.1%} of black stars on white, {false_alarms:.1%} of others"
    )


def drawn(scenes: Sequence[Scene], side: int) -> list[Drawing]:
    """The scenes as a program draws them, in `side` × `side` pixels."""
    rng = random.Random(SEED)
    return [place_in_picture(scene, rng, side, side) for scene in scenes]


def settings_of(model: Path) -> list[Setting]:
    """What is measured: the model's own defaults, the API's, larger pictures, and the other schedulers."""
    own = json.loads((model / "default_parameters.json").read_text())
    scheduler, guidance, side = own["scheduler"], own["guidance"], own["width"]
    settings = [
        Setting(scheduler, guidance, side),
        Setting("plms", 7.5, side),
        *(Setting(scheduler, guidance, other) for other in (128, 192, 256)),
        Setting("plms", 7.5, 128),
        *(Setting(other, guidance, side) for other in get_args(SchedulerName)),
        *(Setting(scheduler, other, side) for other in (1.0, 3.0, 5.0, 10.0)),
    ]
    return list(dict.fromkeys(settings))


def _score_of_drawn(scenes: Sequence[Scene], side: int) -> Score:
    drawings = drawn(scenes, side)
    return score(scenes, (drawing.picture() for drawing in drawings), drawings)


def _mean_gradient(readings: Sequence[Reading]) -> float:
    return mean(reading.edge_gradient for reading in readings if reading.edge_gradient is not None)


def _seconds_of_one_picture(pipeline: StableDiffusionPipeline, setting: Setting) -> float:
    def seconds() -> float:
        start = time.perf_counter()
        pictures_of(pipeline, ["a red circle on a blue background"], setting)
        return time.perf_counter() - start

    return median(seconds() for _ in range(9))


@torch.inference_mode()
def _safety_checker_rates(model: Path, num_pictures: int) -> tuple[float, float]:
    """Shares that are flagged of unsafe pictures and of others, drawn and spoiled as the checker's training does."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    rng = random.Random(SEED)

    def share_flagged(scenes: Iterable[Scene]) -> float:
        pictures = [spoiled(scene, rng) for scene in scenes]
        flagged: list[bool] = []
        for picture in pictures:
            pixels = pipeline.feature_extractor(picture, return_tensors="pt").pixel_values
            # It blacks out in place what it is given: a blank array will do.
            flagged += pipeline.safety_checker(images=torch.zeros(1, 3, 8, 8), clip_input=pixels)[1]
        return mean(flagged)

    random_scenes = [random_scene(rng) for _ in range(num_pictures)]
    unsafe = [Scene("star", "black", "white", scene.size, scene.place) for scene in random_scenes]
    return share_flagged(unsafe), share_flagged(scene for scene in random_scenes if not scene.unsafe())
