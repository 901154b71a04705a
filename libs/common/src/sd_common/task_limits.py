"""The operator's limits for what a task asks for, which may be tighter than those of the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from sd_common.parameters import MAX_PROMPT_CHARS, MAX_STEPS, AnyParameters, Txt2ImgParameters
from sd_common.pictures import PictureSettings
from sd_common.settings import Names, Settings


class TaskSettings(PictureSettings):
    """What a task may ask for, and how large its pictures may be."""

    allowed_models: Names = Field(
        default=(),
        description="Names of the models that tasks may use, separated by commas; `*` and `?` stand for other "
        "characters, and `owner/name@*` for revisions. Empty: all.",
    )
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=MAX_STEPS, description="Most denoising steps of a task.")
    max_prompt_chars: int = Field(
        default=MAX_PROMPT_CHARS, ge=1, le=MAX_PROMPT_CHARS, description="Longest prompt, in characters."
    )


class SafetySettings(Settings):
    """Whether pictures may go unchecked."""

    safety_filter: Literal["optional", "required"] = Field(
        default="optional",
        description="`optional`: a task may turn the safety filter off, and models without a safety checker are used; "
        "`required`: neither.",
    )


def exceeded_limits(parameters: AnyParameters, limits: TaskSettings) -> Iterator[tuple[str, str]]:
    """The fields that ask for too much, each with a sentence that tells the limit.

    What a task leaves out is for the model's own defaults, which are the operator's to choose.
    """
    for name in ("prompt", "negative_prompt"):
        num_chars = len(getattr(parameters, name) or "")
        if num_chars > limits.max_prompt_chars:
            yield name, f"Has {num_chars:,} characters; at most {limits.max_prompt_chars:,} are taken here"
    if "steps" in parameters.model_fields_set and parameters.steps > limits.max_steps:
        yield "steps", f"Is {parameters.steps}; at most {limits.max_steps} are made here"
    if isinstance(parameters, Txt2ImgParameters) and parameters.model_fields_set & {"width", "height"}:
        num_pixels = parameters.width * parameters.height
        if num_pixels > limits.max_picture_pixels:
            size = f"{parameters.width}×{parameters.height}, {num_pixels:,} pixels"
            yield "width", f"The picture would be {size}; at most {limits.max_picture_pixels:,} are made here"
