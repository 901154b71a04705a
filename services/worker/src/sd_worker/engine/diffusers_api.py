"""What the engine uses of diffusers, with types: this module and `diffusers_schedulers` alone import it.

diffusers' functions are untyped; here each gets the type that the engine relies on.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import torch
from diffusers import (
    AutoencoderKL,
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
)
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils.tqdm import disable_progress_bars
from PIL import Image
from transformers.utils import logging as transformers_logging

from sd_common.parameters import SIDE_MULTIPLE_PX, TaskKind

Config = Mapping[str, object]


class Scheduler(Protocol):
    """A noise scheduler: it holds the state of one sample, and is not shared."""

    @property
    def config(self) -> Config: ...


class PipelineOutput(Protocol):
    """What a pipeline makes. SDXL's lacks `nsfw_content_detected`."""

    images: list[Image.Image]


class Pipeline(Protocol):
    """A diffusers pipeline."""

    @property
    def components(self) -> Mapping[str, object]: ...

    scheduler: Scheduler

    @property
    def _execution_device(self) -> torch.device: ...

    @property
    def num_timesteps(self) -> int: ...

    def to(self, device: torch.device) -> Pipeline: ...

    def set_progress_bar_config(self, *, disable: bool) -> None: ...

    def __call__(self, **arguments: object) -> PipelineOutput: ...


StepCallback = Callable[[Pipeline, int, object, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

_from_pretrained: Callable[..., Pipeline] = DiffusionPipeline.from_pretrained
_from_pipe: Mapping[TaskKind, Callable[..., Pipeline]] = {
    "txt2img": AutoPipelineForText2Image.from_pipe,
    "img2img": AutoPipelineForImage2Image.from_pipe,
    "inpaint": AutoPipelineForInpainting.from_pipe,
}
#: The classes that do each kind, by family.
_classes: Mapping[TaskKind, Mapping[str, type[object]]] = {
    "txt2img": AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
    "img2img": AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    "inpaint": AUTO_INPAINT_PIPELINES_MAPPING,
}


def silence_libraries() -> None:
    """Keep out of the logs the bars of loading and downloading, and diffusers' warnings, which quote prompts."""
    disable_progress_bars()
    for library in (diffusers_logging, transformers_logging):
        disable: Callable[[], None] = library.disable_progress_bar
        disable()
    set_verbosity_error: Callable[[], None] = diffusers_logging.set_verbosity_error
    set_verbosity_error()


#: transformers and diffusers change torch's default dtype and its modules while they load, for the whole process.
_LOADING = threading.Lock()


def load_pipeline(directory: Path, *, dtype: torch.dtype, variant: str | None) -> Pipeline:
    """The pipeline in a directory, on the CPU, from the `variant` of its weights where a part has it.

    Asks the hub for nothing, loads no pickle, and runs no code that comes with the model. Raises of many kinds;
    `model_errors.explain` knows them.
    """
    with _LOADING:
        return _from_pretrained(
            str(directory),
            dtype=dtype,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )


def view_pipeline(pipeline: Pipeline, kind: TaskKind, scheduler: Scheduler, *, with_safety_checker: bool) -> Pipeline:
    """A pipeline object of its own (some 4 ms) over the weights of `pipeline`, of the class that does `kind`.

    `AutoPipelineFor*.from_pipe` shares the components as they are (`DiffusionPipeline.from_pipe` would cast them to
    float32) and carries over the model's options, such as SDXL's `force_zeros_for_empty_prompt`.

    Raises `ValueError` where the model's family has no pipeline for `kind`.
    """
    # Pipelines that know no safety checker leave these two out.
    unchecked = {} if with_safety_checker else {"safety_checker": None, "requires_safety_checker": False}
    view = _from_pipe[kind](pipeline, scheduler=scheduler, **unchecked)
    view.set_progress_bar_config(disable=True)
    view.__class__ = _told_its_device(type(view), view._execution_device)
    return view


@cache
def _told_its_device(pipeline_class: type[Pipeline], device: torch.device) -> type[Pipeline]:
    """`pipeline_class`, without the search for the device in every submodule of every component: diffusers makes it
    for each picture, and it took half of the time until the first step."""
    # Of the same names, by which diffusers looks classes up.
    attributes = {"_execution_device": device, "__module__": pipeline_class.__module__}
    return cast(type[Pipeline], type(pipeline_class.__name__, (pipeline_class,), attributes))


def copy_view(view: Pipeline) -> Pipeline:
    """Another view like one that has not been run (0.3 ms), with a configuration and a scheduler of its own."""
    own = copy.copy(view)
    own.scheduler = copy.deepcopy(view.scheduler)  # which replaces the configuration, too
    return own


def component_config(pipeline: Pipeline, component: str) -> Config:
    """The configuration of a component, empty where the pipeline has no such component."""
    return cast(Config, getattr(pipeline.components.get(component), "config", {}))


def is_plain_vae(vae: object) -> bool:
    """Whether it is the VAE of the Stable Diffusion families and Flux, which draws nothing when it decodes, and decodes
    each row for itself."""
    return type(vae) is AutoencoderKL


def takes_argument(pipeline: Pipeline, name: str) -> bool:
    """Whether the call of this pipeline's class has an argument called `name`."""
    return name in _argument_names(type(pipeline))


@cache
def _argument_names(pipeline_class: type[Pipeline]) -> frozenset[str]:
    return frozenset(inspect.signature(pipeline_class.__call__).parameters)


def side_multiple_px(pipeline: Pipeline) -> int:
    """What the sides of its pictures must be multiples of: of what one latent stands for, and of the patches of 2 × 2
    latents that transformers take."""
    scale = getattr(pipeline, "vae_scale_factor", None)
    num_latents = 1 if pipeline.components.get("transformer") is None else 2
    return max(SIDE_MULTIPLE_PX, num_latents * scale if isinstance(scale, int) else 0)


def trained_size_px(pipeline: Pipeline) -> tuple[int, int] | None:
    """Width and height of the pictures that the model was trained at, which its pipeline makes when it is told none.

    None where the pipeline does not say.
    """
    # SD 1.x and 2.x look it up in the UNet; most later families note it when they are made, some do not.
    sample_size = (
        component_config(pipeline, "unet").get("sample_size")
        or getattr(pipeline, "default_sample_size", None)
        or component_config(pipeline, "transformer").get("sample_size")
    )
    scale = getattr(pipeline, "vae_scale_factor", None)
    match sample_size, scale:
        case int(side), int(scale):
            return side * scale, side * scale
        case [int(height), int(width)], int(scale):
            return width * scale, height * scale
    return None


def kinds_of_class(class_name: str) -> tuple[TaskKind, ...]:
    """The kinds that pipelines of diffusers' class `class_name` can be viewed as (`view_pipeline`)."""
    families = {
        family for classes in _classes.values() for family, cls in classes.items() if cls.__name__ == class_name
    }
    return tuple(kind for kind, classes in _classes.items() if families & classes.keys())


def nsfw_content_detected(output: PipelineOutput) -> bool | None:
    """Whether the safety checker flagged the one picture of `output`; None where none ran."""
    flags: list[bool] | None = getattr(output, "nsfw_content_detected", None)
    return None if flags is None else bool(flags[0])
