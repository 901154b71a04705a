"""What the engine uses of diffusers, with types: the one module that imports it.

diffusers' functions are untyped; here each gets the type that the engine relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, cast

import diffusers
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

TaskKind = Literal["txt2img", "img2img", "inpaint"]
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
    def scheduler(self) -> Scheduler: ...

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


def silence_libraries() -> None:
    """Keep out of the logs the bars of loading and downloading, and diffusers' warnings, which quote prompts."""
    disable_progress_bars()
    for library in (diffusers_logging, transformers_logging):
        disable: Callable[[], None] = library.disable_progress_bar
        disable()
    set_verbosity_error: Callable[[], None] = diffusers_logging.set_verbosity_error
    set_verbosity_error()


def load_pipeline(source: str, *, dtype: torch.dtype, token: str | None, local_files_only: bool) -> Pipeline:
    """The pipeline of a directory or hub repository, on the CPU. Loads no pickle, and runs no code that comes with it.

    Raises of many kinds; `model_errors.explain` knows them.
    """
    return _from_pretrained(
        source,
        dtype=dtype,
        token=token,
        local_files_only=local_files_only,
        use_safetensors=True,
        trust_remote_code=False,
    )


def view_pipeline(pipeline: Pipeline, kind: TaskKind, scheduler: Scheduler, *, with_safety_checker: bool) -> Pipeline:
    """A pipeline object of its own (about 1 ms) over the weights of `pipeline`, of the class that does `kind`.

    `AutoPipelineFor*.from_pipe` shares the components as they are (`DiffusionPipeline.from_pipe` would cast them to
    float32) and carries over the model's options, such as SDXL's `force_zeros_for_empty_prompt`.

    Raises `ValueError` where the model's family has no pipeline for `kind`.
    """
    # Pipelines that know no safety checker leave these two out.
    unchecked = {} if with_safety_checker else {"safety_checker": None, "requires_safety_checker": False}
    view = _from_pipe[kind](pipeline, scheduler=scheduler, **unchecked)
    view.set_progress_bar_config(disable=True)
    return view


def scheduler_from_config(class_name: str, config: Config, options: Config) -> Scheduler:
    """A scheduler of diffusers' class `class_name`, made from another's `config`; `options` go first."""
    from_config: Callable[..., Scheduler] = getattr(diffusers, class_name).from_config
    return from_config(dict(config), **options)


def component_config(pipeline: Pipeline, component: str) -> Config:
    """The configuration of a component, empty where the pipeline has no such component."""
    return cast(Config, getattr(pipeline.components.get(component), "config", {}))


def nsfw_content_detected(output: PipelineOutput) -> bool | None:
    """Whether the safety checker flagged the one picture of `output`; None where none ran."""
    flags: list[bool] | None = getattr(output, "nsfw_content_detected", None)
    return None if flags is None else bool(flags[0])
