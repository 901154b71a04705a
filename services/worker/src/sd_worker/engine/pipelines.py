"""One task, run on diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image

from sd_common.parameters import MIN_SIDE_PX, AnyParameters, Img2ImgParameters, TaskKind, Txt2ImgParameters
from sd_worker.engine.diffusers_api import Pipeline, copy_view, view_pipeline
from sd_worker.engine.diffusers_facts import nsfw_content_detected, side_multiple_px, takes_argument
from sd_worker.engine.errors import InvalidInput
from sd_worker.engine.models.kinds import NetworkInput, network_input
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.schedulers import check_steps, create_scheduler
from sd_worker.engine.sharing import share, unshare
from sd_worker.engine.tasks import EngineTask


@dataclass(frozen=True, eq=False)
class SchedulerStep:
    """A step of a sample's scheduler, `num_done` of `num_planned`, and the latents that it came to.

    Schedulers may take more of them than the steps that were asked for: PNDM one more, Heun two for each but the last.
    """

    num_done: int
    num_planned: int
    latents: torch.Tensor | None


#: Called after each. What it raises ends the pipeline's run.
OnSchedulerStep = Callable[[SchedulerStep], None]


@dataclass(frozen=True)
class GeneratedPicture:
    """What a pipeline made; `nsfw_content_detected` None where no safety checker ran."""

    image: Image.Image
    nsfw_content_detected: bool | None


def generate(
    model: LoadedModel, task: EngineTask, on_scheduler_step: OnSchedulerStep, num_fixed_rows: int | None
) -> GeneratedPicture:
    """Make the picture of `task`, as the stock pipeline of `model` would. Runs within a `Rendezvous`.

    Raises `InvalidInput` where the model cannot do what is asked, and what `on_scheduler_step` and torch raise.
    """
    pipeline = create_task_pipeline(model, task.parameters)
    share(pipeline, model.sharing, model.prompts, task.task_id, num_fixed_rows)

    def on_step_end(
        running: Pipeline, index: int, _timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        on_scheduler_step(SchedulerStep(index + 1, running.num_timesteps, tensors.get("latents")))
        return tensors

    try:
        output = pipeline(**call_arguments(task, pipeline), callback_on_step_end=on_step_end)
    except BaseException:
        model.restore()
        raise
    finally:
        unshare(pipeline)
    return GeneratedPicture(output.images[0], nsfw_content_detected(output))


def create_task_pipeline(model: LoadedModel, parameters: AnyParameters) -> Pipeline:
    """A pipeline object for one task over the shared weights, with a scheduler of its own.

    Raises `InvalidInput` where the model cannot do this kind of task.
    """
    # The scheduler counts, since the constructors of pipelines change its configuration, each kind in another way.
    key = (parameters.params_type, parameters.scheduler, parameters.safety_filter)
    view = model.views.get(key)
    if view is None:
        view = model.views[key] = _create_view(model, parameters)
    check_steps(parameters.scheduler, view.scheduler, parameters.steps)
    return copy_view(view)


def _create_view(model: LoadedModel, parameters: AnyParameters) -> Pipeline:
    _check_kind(model, parameters.params_type)
    scheduler = create_scheduler(parameters.scheduler, model.pipeline.scheduler)
    view = view_pipeline(
        model.pipeline, parameters.params_type, scheduler, with_safety_checker=parameters.safety_filter
    )
    if takes_argument(type(view), "original_inference_steps") and parameters.scheduler != "lcm":
        raise InvalidInput(f"Scheduler '{parameters.scheduler}' does not go with model '{model.name}': choose 'lcm'")
    return view


def call_arguments(task: EngineTask, pipeline: Pipeline) -> dict[str, object]:
    """What `pipeline` is called with. Raises `InvalidInput` for a size that it cannot make."""
    parameters = task.parameters
    arguments = {
        "prompt": parameters.prompt,
        "negative_prompt": parameters.negative_prompt,
        "num_inference_steps": parameters.steps,
        "guidance_scale": parameters.guidance,
        # On the CPU whatever the device: a seed gives the same noise everywhere.
        "generator": torch.Generator("cpu").manual_seed(task.seed),
        **_pictures(task, side_multiple_px(pipeline)),
    }
    # Not every family takes a negative prompt, nor the size of an image that it is given; some would make another size.
    # None is not always what a pipeline takes for a prompt that is left out.
    cls = type(pipeline)
    return {name: value for name, value in arguments.items() if value is not None and takes_argument(cls, name)}


def _pictures(task: EngineTask, multiple_px: int) -> dict[str, object]:
    parameters = task.parameters
    if isinstance(parameters, Txt2ImgParameters):
        if parameters.width % multiple_px or parameters.height % multiple_px:
            raise InvalidInput(
                f"Model '{parameters.model}' makes no {parameters.width}×{parameters.height} pictures: "
                f"width and height must be multiples of {multiple_px}"
            )
        return {"width": parameters.width, "height": parameters.height}
    assert task.initial_image is not None, "EngineTask sees to it"
    image = task.initial_image.convert("RGB")
    # Pipelines that are not told the size cut the sides down in the same way; others would scale to one of their own.
    width, height = (side - side % multiple_px for side in image.size)
    if min(width, height) < MIN_SIDE_PX:
        raise InvalidInput(
            f"The initial image is {image.width}×{image.height}; its sides must be at least {MIN_SIDE_PX} pixels"
        )
    pictures: dict[str, object] = {"image": image, "width": width, "height": height}
    if isinstance(parameters, Img2ImgParameters):
        return {**pictures, "strength": parameters.strength}
    assert task.mask is not None, "EngineTask sees to it"
    pictures["mask_image"] = task.mask.convert("L")
    # The API has no strength here: each pipeline's own default counts, 1 for Stable Diffusion, 0.9999 for SDXL, which
    # so keeps a trace of the image in the noise. That leaves SDXL no step of one.
    return {**pictures, "strength": 1.0} if parameters.steps == 1 else pictures


def _check_kind(model: LoadedModel, kind: TaskKind) -> None:
    """diffusers would fail deep inside, or make a picture of nothing."""
    if kind in model.kinds:
        return
    match network_input(model.config_of):
        case NetworkInput.SOMETHING_ELSE:
            raise InvalidInput(f"Model '{model.name}' makes no pictures from prompts alone: choose another model")
        case NetworkInput.LATENTS_AND_MASK if "inpaint" in model.kinds:
            raise InvalidInput(
                f"Model '{model.name}' is made for inpainting and cannot do {kind}: "
                "choose another model, or send an inpaint task"
            )
        case _:
            others = f", or send a task of kind {' or '.join(model.kinds)}" if model.kinds else ""
            raise InvalidInput(f"Model '{model.name}' cannot do {kind}: choose another model{others}")
