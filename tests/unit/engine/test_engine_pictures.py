"""What a finished task holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from unit.engine.recorder import (
    EngineUnderTest,
    TickedEngine,
    img2img,
    initial_image,
    inpaint,
    network_of,
    picture,
    txt2img,
)

from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.pipelines import create_task_pipeline
from sd_worker.engine.rendezvous import Rendezvous, Returned
from sd_worker.engine.sharing import ThreadCall, share
from sd_worker.engine.tasks import EngineTask, Failed
from support.read_model import read_model


def text_of(image: Image.Image) -> dict[str, object]:
    text = image.info["parameters"]
    parsed = json.loads(text)
    assert isinstance(parsed, dict)
    return parsed


def test_the_same_seed_and_parameters_give_the_same_bytes(engine: EngineUnderTest) -> None:
    first = engine.finish(txt2img("a", seed=7, scheduler="euler_a"))
    second = engine.finish(txt2img("b", seed=7, scheduler="euler_a"))

    assert first.png == second.png


def test_another_seed_gives_another_picture(engine: EngineUnderTest) -> None:
    first, second = (np.asarray(picture(engine.finish(txt2img(seed=seed)))) for seed in (1, 2**64 - 1))

    assert (first != second).any()


def test_the_seed_of_the_task_is_told(engine: EngineUnderTest) -> None:
    finished = engine.finish(txt2img(seed=2**64 - 1))

    assert finished.parameters_used.seed == 2**64 - 1
    assert finished.timings.denoising_s > 0


@pytest.mark.parametrize("make", [txt2img, img2img, inpaint])
@pytest.mark.parametrize(
    ("model", "scheduler"),
    [("sd1", "plms"), ("sd1", "heun"), ("owner/sd2", "ddim"), ("sdxl", "euler"), ("sd3", "euler"), ("flux", "euler")],
)
def test_each_stage_is_timed_in_every_family(
    engine: EngineUnderTest, make: Callable[..., EngineTask], model: str, scheduler: str
) -> None:
    timings = engine.finish(make(model=model, scheduler=scheduler)).timings

    assert min(timings.encoding_s, timings.denoising_s, timings.decoding_s, timings.png_s) > 0


@pytest.mark.parametrize("prompt", ["a red circle", "ein großer Kreis", "赤い円 🔴"])
def test_the_png_tells_how_it_was_made(engine: EngineUnderTest, prompt: str) -> None:
    finished = engine.finish(txt2img(seed=7, prompt=prompt))

    image = picture(finished)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
    assert text_of(image) == json.loads(finished.parameters_used.model_dump_json())


def test_the_png_does_not_tell_where_its_initial_pictures_are(engine: EngineUnderTest) -> None:
    """Their URLs are all that keeps them private, and results are passed on."""
    finished = engine.finish(inpaint(initial_image="http://blobs/secret-1", mask="http://blobs/secret-2"))

    assert b"secret" not in finished.png
    assert text_of(picture(finished))["params_type"] == "inpaint"
    assert finished.parameters_used.model_dump()["mask"] == "http://blobs/secret-2"


@pytest.mark.parametrize("make", [txt2img, img2img, inpaint])
def test_a_flagged_picture_is_black(engine: EngineUnderTest, make: Callable[..., EngineTask]) -> None:
    finished = engine.finish(make(model="flags-all"))

    assert finished.nsfw_content_detected is True
    assert not np.asarray(picture(finished)).any()


def test_a_picture_that_passes_the_checker_is_told_to(engine: EngineUnderTest) -> None:
    finished = engine.finish(txt2img(model="flags-none"))

    assert finished.nsfw_content_detected is False
    assert np.asarray(picture(finished)).any()


def test_without_the_safety_filter_no_checker_runs(engine: EngineUnderTest) -> None:
    engine.finish(txt2img(model="flags-all"))
    finished = engine.finish(txt2img(model="flags-all", safety_filter=False))

    assert finished.nsfw_content_detected is None
    assert np.asarray(picture(finished)).any()
    # The next task has its checker again.
    assert engine.finish(txt2img(model="flags-all")).nsfw_content_detected is True


@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_a_model_without_a_checker_says_nothing_of_safety(engine: EngineUnderTest, model: str) -> None:
    assert engine.finish(txt2img(model=model)).nsfw_content_detected is None


@pytest.mark.parametrize("make", [txt2img, img2img])
def test_a_model_for_inpainting_refuses_the_other_kinds(
    engine: EngineUnderTest, make: Callable[..., EngineTask]
) -> None:
    task = make(model="sd1-inpainting")

    outcome = engine.run(task)

    kind = task.parameters.params_type
    assert outcome == Failed(
        "t",
        "invalid_input",
        f"Model 'sd1-inpainting' is made for inpainting and cannot do {kind}: "
        "choose another model, or send an inpaint task",
    )


def test_an_initial_image_that_is_too_small_is_refused(engine: EngineUnderTest) -> None:
    outcome = engine.run(img2img(image=initial_image(200, 63)))

    assert outcome == Failed("t", "invalid_input", "The initial image is 200×63; its sides must be at least 64 pixels")


def test_lcm_with_too_many_steps_is_refused(engine: EngineUnderTest) -> None:
    outcome = engine.run(txt2img(scheduler="lcm", steps=100))

    assert isinstance(outcome, Failed)
    assert outcome.code == "invalid_input"


def test_the_safety_check_runs_in_another_thread_while_the_engine_goes_on(source: ModelSource) -> None:
    engine = TickedEngine(source, "flags-none")
    threads: list[str] = []
    checker = network_of(engine.models, "flags-none", "safety_checker")
    checker.register_forward_pre_hook(lambda *_: threads.append(threading.current_thread().name))

    assert engine.finish(txt2img(model="flags-none")).nsfw_content_detected is False
    assert engine.finish(txt2img(model="flags-none", safety_filter=False)).nsfw_content_detected is None

    (thread,) = threads
    assert thread.startswith("engine-helper")
    engine.stop()


def test_a_safety_check_takes_keywords(source: ModelSource) -> None:
    """Some of diffusers' pipelines call it so."""
    model = read_model(source, "flags-all")
    pipeline: Any = create_task_pipeline(model, txt2img(model="flags-all").parameters)
    share(pipeline, model.sharing, model.prompts, "t", None)
    pixels = torch.zeros(1, 3, 64, 64)
    check = Rendezvous(lambda: pipeline.run_safety_checker(image=pixels, device=pixels.device, dtype=pixels.dtype))

    check.start()
    assert isinstance(check.parked, ThreadCall)
    check.resume(Returned(check.parked.run()))

    assert check.error is None
    assert check.ended is not None
    assert check.ended[1] == [True]


def test_a_picture_that_cannot_be_encoded_fails_its_task(
    engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("sd_worker.engine.helper_threads.encode_png", run_out)
    outcome = engine.run(txt2img("a"))
    monkeypatch.undo()

    assert isinstance(outcome, Failed)
    assert outcome.code == "out_of_memory"
    engine.finish(txt2img("b"))


def test_a_prompt_beyond_what_the_text_encoder_takes_is_cut_and_not_logged(
    engine: EngineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    engine.finish(txt2img(prompt="a private matter " * 60))

    assert "matter" not in caplog.text


def test_a_task_without_its_pictures_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="img2img needs an initial image"):
        EngineTask("t", img2img().parameters, 1)
    with pytest.raises(ValueError, match="inpaint needs a mask"):
        EngineTask("t", inpaint().parameters, 1, initial_image())
