"""Scheduler names stand for the same thing with every model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from unit.engine.recorder import EngineUnderTest, TickedEngine, img2img, inpaint, picture, txt2img
from unit.engine.stock import picture_by

from sd_common.parameters import SchedulerName
from sd_worker.engine.devices import Device
from sd_worker.engine.errors import InvalidInput
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.schedulers import check_steps, create_scheduler
from sd_worker.engine.tasks import Failed
from support.tiny_pipelines import save_lcm

#: Untyped, and mypy does not see through its lazy imports.
diffusers = import_module("diffusers")

SCHEDULERS: tuple[SchedulerName, ...] = get_args(SchedulerName)
PNDM = diffusers.PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True)


@pytest.fixture
def source_of_halves(model_dir: Path) -> ModelSource:
    return ModelSource(model_dir, dtype=torch.float16)


@pytest.mark.parametrize("own", SCHEDULERS)
def test_each_is_made_from_each_models_own(own: SchedulerName) -> None:
    """A model's own scheduler may be any, with options that the asked one refuses or understands otherwise."""
    models_own = create_scheduler(own, PNDM)
    for name in SCHEDULERS:
        direct = create_scheduler(name, PNDM)
        indirect = create_scheduler(name, models_own)

        assert type(indirect) is type(direct)
        options = {key: value for key, value in direct.config.items() if not key.startswith("_")}
        if not name.startswith("dpmpp"):
            # The other names do not tell the spacing of the sigmas, so it stays the model's.
            options.pop("use_karras_sigmas", None)
        assert {key: indirect.config[key] for key in options} == options


@pytest.mark.parametrize("name", SCHEDULERS)
def test_latents_are_not_clipped_with_a_model_that_does_not_say_so(name: SchedulerName) -> None:
    assert create_scheduler(name, PNDM).config.get("clip_sample", False) is False


@pytest.mark.parametrize("name", ["plms", "ddim", "lcm", "ddpm"])
def test_timesteps_that_are_looked_up_stay_on_the_cpu_whatever_the_device(name: SchedulerName) -> None:
    scheduler: Any = create_scheduler(name, PNDM)
    stock = getattr(diffusers, type(scheduler).__name__).from_config(PNDM.config)
    stock.set_timesteps(5)

    scheduler.set_timesteps(5, device="meta")

    assert scheduler.timesteps.tolist() == stock.timesteps.tolist()


def test_each_task_gets_a_scheduler_of_its_own() -> None:
    first = create_scheduler("plms", PNDM)

    assert create_scheduler("plms", PNDM) is not first


def test_plms_needs_no_runge_kutta_steps_whatever_the_model_says() -> None:
    own = diffusers.PNDMScheduler(skip_prk_steps=False)

    assert create_scheduler("plms", own).config["skip_prk_steps"] is True


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_the_coefficients_of_lms_are_those_of_diffusers_also_when_looked_up(steps: int) -> None:
    stock = diffusers.LMSDiscreteScheduler.from_config(PNDM.config)
    stock.set_timesteps(steps)
    for _ in range(2):
        remembering: Any = create_scheduler("k-lms", PNDM)
        remembering.set_timesteps(steps)
        for t in range(steps):
            for order in range(1, min(t + 1, 4) + 1):
                for current_order in range(order):
                    looked_up = remembering.get_lms_coefficient(order, t, current_order)
                    assert looked_up == stock.get_lms_coefficient(order, t, current_order)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_one_step_is_enough(engine: EngineUnderTest, scheduler: SchedulerName, model: str) -> None:
    engine.finish(txt2img(steps=1, scheduler=scheduler, model=model))
    engine.finish(img2img(steps=1, strength=1.0, scheduler=scheduler, model=model))
    engine.finish(inpaint(steps=1, scheduler=scheduler, model=model))


def test_more_steps_than_lcm_takes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'lcm' takes at most 50 steps with this model, not 51"):
        check_steps("lcm", create_scheduler("lcm", PNDM), 51)


def test_a_flow_matching_model_keeps_its_own_scheduler() -> None:
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)

    fresh = create_scheduler("euler", own)
    assert fresh is not own
    assert isinstance(fresh, diffusers.FlowMatchEulerDiscreteScheduler)
    assert fresh.config["shift"] == 3.0
    with pytest.raises(InvalidInput, match="'ddim' does not go with this model's noise schedule: choose 'euler'"):
        create_scheduler("ddim", own)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (diffusers.EDMEulerScheduler(), "euler"),
        # What they were made from leaves its betas in their configurations.
        (diffusers.EDMEulerScheduler.from_config(PNDM.config), "euler"),
        (diffusers.FlowMatchEulerDiscreteScheduler.from_config(PNDM.config), "euler"),
        (diffusers.FlowMatchHeunDiscreteScheduler(), "euler"),
        (diffusers.EDMDPMSolverMultistepScheduler(), "dpmpp_2m"),
        (diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True), "dpmpp_2m"),
    ],
    ids=["EDM Euler", "EDM with betas", "flow with betas", "flow Heun", "EDM DPM-Solver", "flow DPM-Solver"],
)
def test_a_model_whose_noise_schedule_is_not_of_betas_keeps_its_own_scheduler(own: Any, name: SchedulerName) -> None:
    fresh = create_scheduler(name, own)

    assert type(fresh) is type(own)
    assert fresh.config == own.config
    for other in set(SCHEDULERS) - {name}:
        with pytest.raises(InvalidInput, match=f"'{other}' does not go with .*: choose '{name}'"):
            create_scheduler(other, own)


@pytest.mark.parametrize("own", [diffusers.CogVideoXDDIMScheduler(), diffusers.SCMScheduler()], ids=["shifted", "SCM"])
def test_a_noise_schedule_that_no_scheduler_computes_is_refused(own: Any) -> None:
    """Their pictures would be noise."""
    for name in SCHEDULERS:
        with pytest.raises(InvalidInput, match="choose another model"):
            create_scheduler(name, own)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_model_that_is_loaded_meanwhile_changes_no_picture(
    source_of_halves: ModelSource, name: SchedulerName
) -> None:
    """transformers and diffusers set torch's default dtype, for the whole process, while they load in float16."""
    engine = TickedEngine(source_of_halves, "sd1", device=Device(torch.device("cpu"), torch.float16))
    task = txt2img(scheduler=name, steps=5)
    expected = picture(engine.finish(task)).tobytes()

    torch.set_default_dtype(torch.float16)
    try:
        meanwhile = picture(engine.finish(task)).tobytes()
    finally:
        torch.set_default_dtype(torch.float32)

    assert meanwhile == expected
    engine.stop()


def test_a_pipeline_for_lcm_takes_no_other_scheduler(tmp_path: Path) -> None:
    save_lcm(tmp_path / "lcm")
    engine = TickedEngine(ModelSource(tmp_path, dtype=torch.float32))
    task = txt2img(model="lcm", scheduler="lcm")
    stock = diffusers.LatentConsistencyModelPipeline.from_pretrained(tmp_path / "lcm", local_files_only=True)
    expected = picture_by(stock, task)

    refused = engine.run([txt2img(model="lcm", scheduler="plms")])["t"]

    reason = "Scheduler 'plms' does not go with model 'lcm': choose 'lcm'"
    assert refused == Failed("t", "invalid_input", reason)
    assert picture(engine.finish(task)).tobytes() == expected.tobytes()
    engine.stop()
