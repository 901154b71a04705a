"""The engine's contract: a picture equals the stock diffusers pipeline's for the same seed, bit for bit on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.engine.recorder import KINDS, EngineUnderTest, img2img, initial_image, inpaint, mask, picture, txt2img
from unit.engine.stock import SCHEDULERS, stock_picture

from sd_common.parameters import SchedulerName
from sd_worker.engine.tasks import EngineTask, Failed

#: One that duplicates a step, one with noise of its own, one of second order, one of continuous timesteps.
SOME_SCHEDULERS = ["plms", "ddim", "k-lms", "euler_a", "heun", "dpmpp_2m"]


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
