"""The pictures of the stock diffusers pipelines."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image

from sd_common.parameters import Img2ImgParameters, InpaintParameters, SchedulerName, Txt2ImgParameters
from sd_worker.engine.tasks import EngineTask

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


def stock_picture(directory: Path, task: EngineTask) -> Image.Image:
    """The picture that diffusers' documentation tells how to make."""
    parameters = task.parameters
    family = FAMILIES.get(parameters.model, SD)
    pipe = family[parameters.params_type].from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    if "transformer" not in pipe.components:  # those of flow matching keep their own
        scheduler_class, options = STOCK_SCHEDULERS[parameters.scheduler]
        pipe.scheduler = scheduler_class.from_config(pipe.scheduler.config, **options)
    # Else they scale a picture to the size that they were trained at.
    told = {"width": 64, "height": 64} if isinstance(parameters, Img2ImgParameters) and family in (SD3, FLUX) else {}
    return picture_by(pipe, task, **told)


def picture_by(pipe: Any, task: EngineTask, **told: object) -> Image.Image:
    """The picture that `pipe` makes of a task, which is `told` more."""
    pipe.set_progress_bar_config(disable=True)
    parameters = task.parameters
    arguments: dict[str, object] = {
        "prompt": parameters.prompt,
        "num_inference_steps": parameters.steps,
        "guidance_scale": parameters.guidance,
        "generator": torch.Generator().manual_seed(task.seed),
    }
    if parameters.negative_prompt is not None:  # not every pipeline takes one
        arguments["negative_prompt"] = parameters.negative_prompt
    match parameters:
        case Txt2ImgParameters():
            arguments |= {"width": parameters.width, "height": parameters.height}
        case Img2ImgParameters():
            arguments |= {"image": task.initial_image, "strength": parameters.strength}
        case InpaintParameters():
            arguments |= {"image": task.initial_image, "mask_image": task.mask, "width": 64, "height": 64}
    image = pipe(**arguments, **told).images[0]
    assert isinstance(image, Image.Image)
    return image
