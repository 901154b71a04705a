"""What a task does not say is the model's own default, else the API's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from unit.engine.recorder import PROMPT, EngineUnderTest, img2img, initial_image, inpaint, picture

from sd_common.parameters import DefaultParameters, Img2ImgParameters, Txt2ImgParameters
from sd_worker.engine.errors import InvalidInput, ModelUnavailable
from sd_worker.engine.models.default_parameters import DEFAULTS_FILE, with_defaults, with_trained_size
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.tasks import EngineTask, Failed
from support.read_model import read_model

diffusers = import_module("diffusers")

OWN = {"width": 72, "height": 80, "steps": 3, "guidance": 2.0, "scheduler": "ddim"}
RunOn = Callable[..., EngineUnderTest]


@pytest.fixture
def own_dir(tmp_path: Path, model_dir: Path) -> Path:
    """A MODEL_DIR with a model of its own defaults."""
    shutil.copytree(model_dir / "sd1", tmp_path / "own")
    (tmp_path / "own" / DEFAULTS_FILE).write_text(json.dumps(OWN))
    return tmp_path


@pytest.fixture
def own_engine(own_dir: Path, create_engine: RunOn) -> EngineUnderTest:
    return create_engine(ModelSource(own_dir, dtype=torch.float32))


def bare(model: str, **given: object) -> EngineTask:
    """A txt2img task that says nothing but this."""
    return EngineTask("t", Txt2ImgParameters.model_validate({"prompt": PROMPT, "model": model, **given}), 7)


def used(engine: EngineUnderTest, task: EngineTask) -> dict[str, object]:
    return engine.finish(task).parameters_used.model_dump()


def test_what_a_task_does_not_say_is_the_models_own_default(own_engine: EngineUnderTest) -> None:
    finished = own_engine.finish(bare("own"))

    assert finished.parameters_used.model_dump() == {
        "params_type": "txt2img",
        "prompt": PROMPT,
        "negative_prompt": None,
        "model": "own",
        "seed": 7,
        "safety_filter": True,
        **OWN,
    }
    assert picture(finished).size == (72, 80)
    assert json.loads(picture(finished).info["parameters"]) == finished.parameters_used.model_dump()
    assert own_engine.recorder.steps_of("t")[-1] == 3


def test_what_a_task_says_counts_even_where_it_is_the_apis_default(own_engine: EngineUnderTest) -> None:
    given = {"steps": 20, "guidance": 7.5, "scheduler": "plms", "width": 64}

    assert used(own_engine, bare("own", **given)).items() >= {**given, "height": 80}.items()


def test_a_model_that_carries_nothing_takes_the_apis_defaults_and_its_trained_size(engine: EngineUnderTest) -> None:
    defaults = {"steps": 20, "guidance": 7.5, "scheduler": "plms", "width": 64, "height": 64}

    assert used(engine, bare("sd1")).items() >= defaults.items()


@pytest.mark.parametrize("make", [img2img, inpaint])
def test_a_picture_that_is_started_from_gives_the_size(
    own_engine: EngineUnderTest, make: Callable[..., EngineTask]
) -> None:
    finished = own_engine.finish(make(model="own", image=initial_image(64, 96)))

    assert picture(finished).size == (64, 96)
    assert not {"width", "height"} & finished.parameters_used.model_dump().keys()
    assert finished.parameters_used.scheduler == "ddim"


@pytest.mark.parametrize("model", ["sd1", "owner/sd2", "sdxl"])
def test_a_request_without_a_size_gives_the_stock_pipelines_picture(
    engine: EngineUnderTest, model_dir: Path, model: str
) -> None:
    pipe = diffusers.DiffusionPipeline.from_pretrained(model_dir / model, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(7)
    stock = pipe(PROMPT, num_inference_steps=2, guidance_scale=7.5, generator=generator).images[0]

    finished = engine.finish(bare(model, steps=2, scheduler="ddim"))

    np.testing.assert_array_equal(np.asarray(picture(finished)), np.asarray(stock))


@pytest.mark.parametrize(
    ("sample_size", "size"), [(16, (128, 128)), ([8, 16], (128, 64)), (4, (512, 512)), (512, (512, 512))]
)
def test_the_trained_size_is_taken_where_a_task_may_have_it(
    own_dir: Path, create_engine: RunOn, sample_size: object, size: tuple[int, int]
) -> None:
    (own_dir / "own" / DEFAULTS_FILE).write_text('{"steps": 1}')
    config_file = own_dir / "own" / "unet" / "config.json"
    config_file.write_text(json.dumps({**json.loads(config_file.read_text()), "sample_size": sample_size}))

    finished = create_engine(ModelSource(own_dir, dtype=torch.float32)).finish(bare("own"))

    assert picture(finished).size == size


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"steps": 0}', "steps: Input should be greater than or equal to 1"),
        ('{"width": 100}', "width: Input should be a multiple of 8"),
        ('{"scheduler": "best"}', "scheduler: Input should be 'plms'"),
        ('{"strength": 0.5}', "strength: Extra inputs are not permitted"),
        ("[]", "Input should be an object"),
        ("{", "Invalid JSON"),
    ],
)
def test_a_wrong_file_is_told_and_fails_the_tasks_of_its_model(
    own_dir: Path, create_engine: RunOn, content: str, told: str
) -> None:
    (own_dir / "own" / DEFAULTS_FILE).write_text(content)
    source = ModelSource(own_dir, dtype=torch.float32)

    outcome = create_engine(source).run(bare("own"))

    assert isinstance(outcome, Failed)
    assert outcome.code == "model_unavailable"
    assert outcome.reason.startswith("Model 'own' has a wrong default_parameters.json, which the operator must mend: ")
    assert told in outcome.reason
    assert source.known() == []


def test_a_strength_that_leaves_none_of_the_models_own_steps_is_told(own_engine: EngineUnderTest) -> None:
    parameters = Img2ImgParameters(prompt=PROMPT, model="own", initial_image="blob", strength=0.3)

    outcome = own_engine.run(EngineTask("t", parameters, 7, initial_image()))

    assert outcome == Failed(
        "t",
        "invalid_input",
        "With the defaults of model 'own': strength: strength × steps must be at least 1, "
        "but 0.3 × 3 leaves no step to run: raise either",
    )


def test_a_strength_that_leaves_a_step_of_the_models_own_runs() -> None:
    parameters = Img2ImgParameters(prompt="x", initial_image="blob", strength=0.01)

    assert with_defaults(parameters, DefaultParameters(steps=100)).steps == 100
    with pytest.raises(InvalidInput, match=r"0\.01 × 20 leaves no step"):
        with_defaults(parameters, DefaultParameters())


def test_a_size_of_the_file_goes_before_the_trained_one() -> None:
    sized = with_trained_size(DefaultParameters(width=256), (512, 768))

    assert (sized.width, sized.height) == (256, 768)
    assert with_trained_size(DefaultParameters(), None) == DefaultParameters()


def test_a_repository_of_the_hub_may_carry_defaults_too(
    own_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it lies in the hub's cache once it has been downloaded."""
    repository = tmp_path / "cache" / "models--owner--own"
    shutil.copytree(own_dir / "own", repository / "snapshots" / "0123456789abcdef")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789abcdef")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    source = ModelSource(None, dtype=torch.float32)

    assert read_model(source, "owner/own").default_parameters == DefaultParameters.model_validate(OWN)
    (repository / "snapshots" / "0123456789abcdef" / DEFAULTS_FILE).unlink()
    assert read_model(source, "owner/own").default_parameters == DefaultParameters(width=64, height=64)
    (repository / "snapshots" / "0123456789abcdef" / DEFAULTS_FILE).write_text('{"steps": 0}')
    with pytest.raises(ModelUnavailable, match="wrong default_parameters"):
        read_model(source, "owner/own")
