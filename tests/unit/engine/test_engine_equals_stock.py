"""The engine's contract: a picture equals the stock diffusers pipeline's for the same seed, bit for bit on the CPU."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from unit.engine.recorder import EngineUnderTest, img2img, initial_image, inpaint, mask, picture, txt2img

from sd_common.parameters import Img2ImgParameters, InpaintParameters, SchedulerName, Txt2ImgParameters
from sd_worker.engine.tasks import EngineTask, Failed

#: Untyped, and mypy does not see through its lazy imports.
diffusers = import_module("diffusers")

#: What a user of diffusers would write for each name: `pipe.scheduler = Class.from_config(pipe.scheduler.config, …)`.
STOCK_SCHEDULERS: dict[SchedulerName, tuple[Any, dict[str, object]]] = {
    "plms": (diffusers.PNDMScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {}),
    "k-lms": (diffusers.LMSDiscreteScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpmpp_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
    "ddpm": (diffusers.DDPMScheduler, {}),
}
SCHEDULERS: tuple[SchedulerName, ...] = get_args(SchedulerName)
#: One that duplicates a step, one with noise of its own, one of second order, one of continuous timesteps.
SOME_SCHEDULERS = ["plms", "ddim", "k-lms", "euler_a", "heun", "dpmpp_2m"]
SD = {
    "txt2img": diffusers.StableDiffusionPipeline,
    "img2img": diffusers.StableDiffusionImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionInpaintPipeline,
}
SDXL = {
    "txt2img": diffusers.StableDiffusionXLPipeline,
    "img2img": diffusers.StableDiffusionXLImg2ImgPipeline,
    "inpaint": diffusers.StableDiffusionXLInpaintPipeline,
}
SD3 = {
    "txt2img": diffusers.StableDiffusion3Pipeline,
    "img2img": diffusers.StableDiffusion3Img2ImgPipeline,
    "inpaint": diffusers.StableDiffusion3InpaintPipeline,
}
FLUX = {
    "txt2img": diffusers.FluxPipeline,
    "img2img": diffusers.FluxImg2ImgPipeline,
    "inpaint": diffusers.FluxInpaintPipeline,
}
FAMILIES = {"sd1": SD, "sd1-inpainting": SD, "owner/sd2": SD, "sdxl": SDXL, "sd3": SD3, "flux": FLUX}
KINDS = {"txt2img": txt2img, "img2img": img2img, "inpaint": inpaint}


def stock_picture(directory: Path, task: EngineTask) -> Image.Image:
    """The picture that diffusers' documentation tells how to make."""
    parameters = task.parameters
    family = FAMILIES.get(parameters.model, SD)
    pipe = family[parameters.params_type].from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if "transformer" not in pipe.components:  # those of flow matching keep their own
        scheduler_class, options = STOCK_SCHEDULERS[parameters.scheduler]
        pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config, **options)
    arguments: dict[str, object] = {
        "prompt": parameters.prompt,
        "negative_prompt": parameters.negative_prompt,
        "num_inference_steps": parameters.steps,
        "guidance_scale": parameters.guidance,
        "generator": torch.Generator().manual_seed(task.seed),
    }
    match parameters:
        case Txt2ImgParameters():
            arguments |= {"width": parameters.width, "height": parameters.height}
        case Img2ImgParameters():
            arguments |= {"image": task.initial_image, "strength": parameters.strength}
            if family in (SD3, FLUX):
                # Else they scale it to the size that they were trained at.
                arguments |= {"width": 64, "height": 64}
        case InpaintParameters():
            arguments |= {"image": task.initial_image, "mask_image": task.mask, "width": 64, "height": 64}
    image = pipe(**arguments).images[0]
    assert isinstance(image, Image.Image)
    return image


def assert_equals_stock(engine: EngineUnderTest, model_dir: Path, task: EngineTask) -> None:
    stock = np.asarray(stock_picture(model_dir / task.parameters.model, task))
    # A flat picture would equal many others.
    assert stock.std() > 5
    np.testing.assert_array_equal(np.asarray(picture(engine.finish(task))), stock)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_txt2img_with_each_scheduler(engine: EngineUnderTest, model_dir: Path, scheduler: SchedulerName) -> None:
    assert_equals_stock(engine, model_dir, txt2img(scheduler=scheduler, steps=5, negative_prompt="green"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_the_other_kinds_with_each_scheduler(
    engine: EngineUnderTest, model_dir: Path, kind: str, scheduler: str
) -> None:
    assert_equals_stock(engine, model_dir, KINDS[kind](scheduler=scheduler, steps=4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("model", "scheduler"), [("owner/sd2", "ddim"), ("owner/sd2", "plms"), ("sdxl", "euler"), ("sdxl", "dpmpp_2m")]
)
def test_the_other_families(
    engine: EngineUnderTest, model_dir: Path, kind: str, model: str, scheduler: SchedulerName
) -> None:
    assert_equals_stock(engine, model_dir, KINDS[kind](model=model, scheduler=scheduler))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["sd3", "flux"])
def test_families_of_transformers_and_flow_matching(
    engine: EngineUnderTest, model_dir: Path, model: str, kind: str, guidance: float
) -> None:
    task = KINDS[kind](model=model, scheduler="euler", guidance=guidance, negative_prompt="green")
    assert_equals_stock(engine, model_dir, task)


@pytest.mark.parametrize("model", ["sd3", "flux"])
def test_sides_that_make_no_whole_patches_are_refused_or_cut_down(engine: EngineUnderTest, model: str) -> None:
    outcome = engine.run(txt2img(model=model, scheduler="euler", width=72))

    assert isinstance(outcome, Failed)
    assert outcome.code == "invalid_input"
    assert "width and height must be multiples of 16" in outcome.reason
    for kind in (img2img, inpaint):
        finished = engine.finish(kind(model=model, scheduler="euler", image=initial_image(77, 95)))
        assert picture(finished).size == (64, 80)


@pytest.mark.parametrize("scheduler", SOME_SCHEDULERS)
def test_inpainting_with_nine_channels(engine: EngineUnderTest, model_dir: Path, scheduler: str) -> None:
    assert_equals_stock(engine, model_dir, inpaint(model="sd1-inpainting", scheduler=scheduler))


@pytest.mark.parametrize("kind", KINDS)
def test_without_guidance(engine: EngineUnderTest, model_dir: Path, kind: str) -> None:
    assert_equals_stock(engine, model_dir, KINDS[kind](guidance=1.0))


def test_a_safety_checker_that_flags_nothing_changes_nothing(engine: EngineUnderTest, model_dir: Path) -> None:
    assert_equals_stock(engine, model_dir, txt2img(model="flags-none"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_flagged_picture_is_blacked_out_as_by_the_stock_pipeline(
    engine: EngineUnderTest, model_dir: Path, kind: str
) -> None:
    task = KINDS[kind](model="flags-all")
    stock = np.asarray(stock_picture(model_dir / "flags-all", task))
    finished = engine.finish(task)

    assert finished.nsfw_content_detected is True
    assert not stock.any()
    np.testing.assert_array_equal(np.asarray(picture(finished)), stock)


def test_tasks_do_not_change_what_later_tasks_give(engine: EngineUnderTest, model_dir: Path) -> None:
    for kind, scheduler in [("inpaint", "heun"), ("img2img", "plms"), ("txt2img", "euler_a")]:
        engine.finish(KINDS[kind](scheduler=scheduler))
    assert_equals_stock(engine, model_dir, txt2img(scheduler="plms"))


@pytest.mark.parametrize("kind", ["img2img", "inpaint"])
def test_sides_are_cut_down_to_multiples_of_eight(engine: EngineUnderTest, kind: str) -> None:
    finished = engine.finish(KINDS[kind](image=initial_image(77, 95)))

    assert picture(finished).size == (72, 88)


def test_pictures_with_an_alpha_channel_and_a_colour_mask_are_taken(engine: EngineUnderTest) -> None:
    plain = inpaint()
    coloured = EngineTask("t", plain.parameters, plain.seed, initial_image().convert("RGBA"), mask().convert("RGB"))

    assert engine.finish(coloured).png == engine.finish(plain).png


def test_inpainting_keeps_what_the_mask_leaves_black(engine: EngineUnderTest) -> None:
    """With the bundled model, whose VAE was trained: outside of the mask the picture comes back nearly as it was."""
    own: dict[str, Any] = {"model": "shapes", "steps": 20, "scheduler": "ddim", "guidance": 5.0}
    task = txt2img(**own, prompt="a big red star on a white background", width=128, height=128)
    before = picture(engine.finish(task))
    parameters = inpaint(**own, prompt="a big green star on a white background").parameters
    after = picture(engine.finish(EngineTask("t", parameters, 3, before, mask(128, 128))))

    difference = np.abs(np.asarray(after, dtype=int) - np.asarray(before, dtype=int)).mean(axis=2)
    is_outside = np.ones((128, 128), dtype=bool)
    is_outside[20:108, 20:108] = False
    assert difference[is_outside].mean() < 8
