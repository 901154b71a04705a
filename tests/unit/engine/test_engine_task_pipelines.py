"""Each task has a pipeline and a scheduler of its own, copied from what was made once for a model."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from unit.engine.recorder import KINDS, TickedEngine, network_of, txt2img
from unit.engine.stock import SCHEDULERS

from sd_common.parameters import SchedulerName
from sd_worker.engine.diffusers_facts import takes_argument
from sd_worker.engine.errors import InvalidInput
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.pipelines import call_arguments, create_task_pipeline
from sd_worker.engine.tasks import EngineTask
from support.read_model import read_model


@pytest.fixture
def model(source: ModelSource) -> LoadedModel:
    return read_model(source, "sd1")


def functions_called(function: Callable[[], object]) -> set[str]:
    """The names of all Python functions that run meanwhile."""
    names: set[str] = set()

    def look(frame: FrameType, event: str, argument: object) -> None:
        names.add(frame.f_code.co_name)

    sys.setprofile(look)
    try:
        function()
    finally:
        sys.setprofile(None)
    return names


def prepare(model: LoadedModel, task: EngineTask) -> Any:
    pipeline: Any = create_task_pipeline(model, task.parameters)
    call_arguments(task, pipeline)
    assert pipeline._execution_device == torch.device("cpu")
    return pipeline


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_first_picture_of_its_sort_waits_for_what_is_the_same_for_all(model: LoadedModel, kind: str) -> None:
    task = KINDS[kind]()
    slow = {"from_pipe", "from_config", "named_modules"}

    assert slow <= functions_called(lambda: prepare(model, task))
    assert not slow & functions_called(lambda: prepare(model, task))
    pipeline = prepare(model, task)
    assert "signature" not in functions_called(lambda: takes_argument(type(pipeline), "prompt"))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_state_of_one_task_reaches_another(model: LoadedModel, scheduler: SchedulerName) -> None:
    first, other = (prepare(model, txt2img(scheduler=scheduler)) for _ in range(2))
    untouched = {name: repr(value) for name, value in vars(other.scheduler).items()}

    first.scheduler.set_timesteps(4)
    latents = torch.ones(1, 4, 8, 8)
    for timestep in first.scheduler.timesteps[:3]:
        scaled = first.scheduler.scale_model_input(latents, timestep)
        latents = first.scheduler.step(torch.ones_like(scaled), timestep, latents).prev_sample
    first.register_to_config(vae="changed")
    first.scheduler.register_to_config(beta_start=1)

    later = prepare(model, txt2img(scheduler=scheduler))
    for pipeline in (other, later):
        assert {name: repr(value) for name, value in vars(pipeline.scheduler).items()} == untouched
        assert pipeline.config["vae"] != "changed"
        assert pipeline.config["scheduler"][1] == type(pipeline.scheduler).__name__
        assert pipeline.unet is model.pipeline.components["unet"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_the_scheduler_that_the_constructor_of_its_kind_leaves(model: LoadedModel, kind: str) -> None:
    """Each changes the configuration in another way; assigning a fresh scheduler to a pipeline would skip that."""
    parameters = KINDS[kind](scheduler="ddim").parameters
    pipelines = [create_task_pipeline(model, parameters) for _ in range(2)]

    configs = [pipeline.scheduler.config for pipeline in pipelines]
    assert configs[0] == configs[1]
    assert configs[0]["steps_offset"] == 1


def test_lcm_refuses_too_many_steps_each_time(model: LoadedModel) -> None:
    create_task_pipeline(model, txt2img(scheduler="lcm", steps=8).parameters)
    for _ in range(2):
        with pytest.raises(InvalidInput, match="'lcm' takes at most 50 steps with this model, not 51"):
            create_task_pipeline(model, txt2img(scheduler="lcm", steps=51).parameters)


def test_what_is_made_once_for_a_model_goes_with_it(ticked: TickedEngine) -> None:
    for kind, scheduler in [("txt2img", "k-lms"), ("img2img", "unipc"), ("inpaint", "ddim")]:
        ticked.finish(KINDS[kind](scheduler=scheduler))
    unet = weakref.ref(network_of(ticked.models, "sd1", "unet"))

    ticked.models.drop("sd1")

    gc.collect()
    assert unet() is None


@pytest.mark.parametrize("negative_prompt", [None, "green"])
def test_what_a_task_leaves_out_is_left_to_the_pipeline(model: LoadedModel, negative_prompt: str | None) -> None:
    """Some read their negative prompt as a string whatever they are given."""
    task = txt2img(negative_prompt=negative_prompt)

    arguments = call_arguments(task, create_task_pipeline(model, task.parameters))

    assert arguments.get("negative_prompt", None) == negative_prompt
    assert ("negative_prompt" in arguments) == (negative_prompt is not None)
