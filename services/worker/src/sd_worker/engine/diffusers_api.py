"""diffusers' pipelines, with types: how they are loaded, and how each task gets one of its own.

diffusers' functions are untyped; here each gets the type that the engine relies on. This module, `diffusers_facts` and
`diffusers_schedulers` alone import it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
)
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils.tqdm import disable_progress_bars
from PIL import Image
from transformers.utils import logging as transformers_logging

from sd_common.parameters import TaskKind

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

    @property
    def config(self) -> Config: ...

    scheduler: Scheduler

    @property
    def _execution_device(self) -> torch.device: ...

    @property
    def num_timesteps(self) -> int: ...

    def to(self, device: torch.device) -> Pipeline: ...

    def set_progress_bar_config(self, *, disable: bool) -> None: ...

    def __call__(self, **arguments: object) -> PipelineOutput: ...


_from_pretrained: Callable[..., Pipeline] = DiffusionPipeline.from_pretrained
_from_pipe: Mapping[TaskKind, Callable[..., Pipeline]] = {
    "txt2img": AutoPipelineForText2Image.from_pipe,
    "img2img": AutoPipelineForImage2Image.from_pipe,
    "inpaint": AutoPipelineForInpainting.from_pipe,
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
    `models.model_errors.explain` knows them.
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
