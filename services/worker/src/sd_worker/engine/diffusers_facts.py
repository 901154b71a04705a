"""What diffusers' pipelines tell of themselves: each family does it in another way."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import cast

from diffusers import AutoencoderKL
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_INPAINT_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)

from sd_common.parameters import SIDE_MULTIPLE_PX, TaskKind
from sd_worker.engine.diffusers_api import Config, Pipeline, PipelineOutput

#: The classes that do each kind, by family.
_classes = cast(
    Mapping[TaskKind, Mapping[str, type[Pipeline]]],
    {
        "txt2img": AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        "img2img": AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "inpaint": AUTO_INPAINT_PIPELINES_MAPPING,
    },
)


def component_config(pipeline: Pipeline, component: str) -> Config:
    """The configuration of a component, empty where the pipeline has no such component."""
    return cast(Config, getattr(pipeline.components.get(component), "config", {}))


def is_plain_vae(vae: object) -> bool:
    """Whether it is the VAE of the Stable Diffusion families and Flux, which draws nothing when it decodes, and decodes
    each row for itself."""
    return type(vae) is AutoencoderKL


def takes_argument(pipeline_class: type[Pipeline], name: str) -> bool:
    """Whether the call of a pipeline has an argument called `name`."""
    return name in _argument_names(pipeline_class)


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
    """The kinds that pipelines of diffusers' class `class_name` can be viewed as (`view_pipeline`), and run here."""
    families = {
        family for classes in _classes.values() for family, cls in classes.items() if cls.__name__ == class_name
    }
    return tuple(
        kind
        for kind, classes in _classes.items()
        if any(_is_run_here(classes[family]) for family in families & classes.keys())
    )


def _is_run_here(pipeline_class: type[Pipeline]) -> bool:
    """Whether a pipeline tells of its steps, needs no more than a task holds, and leaves as they are the networks that
    others share meanwhile: perturbed-attention guidance (PAG) does not."""
    tells_steps = hasattr(pipeline_class, "num_timesteps") and takes_argument(pipeline_class, "callback_on_step_end")
    needs_control_picture = "Control" in pipeline_class.__name__
    return tells_steps and not needs_control_picture and not hasattr(pipeline_class, "_set_pag_attn_processor")


def nsfw_content_detected(output: PipelineOutput) -> bool | None:
    """Whether the safety checker flagged the one picture of `output`; None where none ran."""
    flags: list[bool] | None = getattr(output, "nsfw_content_detected", None)
    return None if flags is None else bool(flags[0])
