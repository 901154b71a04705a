"""A family that the engine was not written for: two networks a step, the one's output an input of the other.

The API has no ControlNet; the engine and its parts run it as they are.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from unit.engine.recorder import PROMPT, TickedEngine, initial_image, picture, txt2img

from sd_worker.engine.batches import NetworkCall, run_together
from sd_worker.engine.diffusers_api import load_pipeline
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.pipelines import GeneratedPicture, OnSchedulerStep
from sd_worker.engine.prompt_cache import PromptCache
from sd_worker.engine.rendezvous import Rendezvous, Returned
from sd_worker.engine.sharing import share, sharing_of
from sd_worker.engine.tasks import EngineTask, Finished

#: Untyped, and mypy does not see through its lazy imports.
diffusers = import_module("diffusers")

CONTROLS = [
    initial_image(),
    Image.linear_gradient("L").resize((64, 64)).convert("RGB"),
    Image.new("RGB", (64, 64), (200, 60, 20)),
]


@pytest.fixture(scope="module")
def pipeline(model_dir: Path) -> Any:
    return load_pipeline(model_dir / "controlnet", dtype=torch.float32, variant=None)


def arguments(number: int) -> dict[str, object]:
    return {
        "prompt": PROMPT,
        "image": CONTROLS[number],
        "num_inference_steps": 4 + number,
        "guidance_scale": 1.0 if number == 2 else 5.0,
        "generator": torch.Generator().manual_seed(1),
    }


def pixels(image: Image.Image) -> npt.NDArray[np.int16]:
    return np.asarray(image, dtype=np.int16)


def own_pipeline(pipeline: Any) -> Any:
    """One for a single picture, over the same weights."""
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    components = {**pipeline.components, "scheduler": scheduler}
    own = diffusers.StableDiffusionControlNetPipeline(**components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    return own


def shared_sample(pipeline: Any, prompts: PromptCache, number: int) -> Rendezvous[Image.Image]:
    own = own_pipeline(pipeline)
    share(own, sharing_of(pipeline), prompts, number, num_fixed_rows=None)
    return Rendezvous(lambda: own(**arguments(number)).images[0])


def make_a_pass(samples: list[Rendezvous[Image.Image]]) -> tuple[str, int]:
    """For all that wait for the same as the first. Returns the network, and of how many rows the pass was."""
    waiting = [(sample, sample.parked) for sample in samples if isinstance(sample.parked, NetworkCall)]
    network, group = waiting[0][1].network, waiting[0][1].group
    together = [(sample, call) for sample, call in waiting if call.group == group]
    results = run_together([call for _, call in together])
    for (sample, _), result in zip(together, results, strict=True):
        sample.resume(Returned(result))
    return type(network).__name__, sum(call.num_rows for _, call in together)


def test_control_images_in_one_pass_give_pictures_within_a_grey_level_of_the_stock_pipelines(pipeline: Any) -> None:
    stock = [own_pipeline(pipeline)(**arguments(number)).images[0] for number in range(len(CONTROLS))]
    prompts = PromptCache()
    samples = [shared_sample(pipeline, prompts, number) for number in range(len(CONTROLS))]
    passes = []
    with torch.inference_mode():
        for sample in samples:
            sample.start()
        while any(sample.ended is None for sample in samples):
            passes.append(make_a_pass(samples))

    # The first takes 4 steps, with two rows each; so does the second of its 5; the third has one row.
    assert passes.count(("ControlNetModel", 5)) == passes.count(("UNet2DConditionModel", 5)) == 4
    for sample, expected in zip(samples, stock, strict=True):
        assert sample.error is None
        assert sample.ended is not None
        assert np.abs(pixels(sample.ended) - pixels(expected)).max() <= 1
    # The control image counts, of pictures that are alike but for it.
    other = own_pipeline(pipeline)(**{**arguments(0), "image": CONTROLS[1]}).images[0]
    assert np.abs(pixels(stock[0]) - pixels(other)).max() > 5


def test_the_engine_runs_it_alone_bit_for_bit_and_in_company_within_a_grey_level(
    pipeline: Any, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own ticks; only what a task's pipeline is, and what it is called with, comes from here."""

    def generate(
        model: LoadedModel, task: EngineTask, on_scheduler_step: OnSchedulerStep, num_fixed_rows: int | None
    ) -> GeneratedPicture:
        own = own_pipeline(model.pipeline)
        share(own, model.sharing, model.prompts, task.task_id, num_fixed_rows)
        return GeneratedPicture(own(**arguments(int(task.task_id))).images[0], None)

    monkeypatch.setattr("sd_worker.engine.samples.generate", generate)
    engine = TickedEngine(source, "controlnet")
    tasks = [txt2img(str(number), model="controlnet") for number in range(len(CONTROLS))]
    stock = [pixels(own_pipeline(pipeline)(**arguments(number)).images[0]) for number in range(len(CONTROLS))]

    for task, expected in zip(tasks, stock, strict=True):
        np.testing.assert_array_equal(pixels(picture(engine.finish(task))), expected)
    outcomes = engine.run(tasks, per_join=1)
    for task, expected in zip(tasks, stock, strict=True):
        outcome = outcomes[task.task_id]
        assert isinstance(outcome, Finished)
        assert np.abs(pixels(picture(outcome)) - expected).max() <= 1
    engine.stop()
