"""Models are found, or refused with a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from unit.engine.recorder import (
    CPU,
    EngineUnderTest,
    TickedEngine,
    load_now,
    txt2img,
)

from sd_common.parameters import DefaultParameters, TaskKind
from sd_worker.engine.devices import choose_device, default_budget_bytes
from sd_worker.engine.errors import DeviceUnavailable, ModelUnavailable
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_errors import explain
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.reports import KnownModel
from sd_worker.engine.tasks import Failed
from support.read_model import read_model


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub cannot be reached, and nothing was downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def own_dir(tmp_path: Path, model_dir: Path) -> Path:
    """A MODEL_DIR with a copy of one model, for a test to break."""
    shutil.copytree(model_dir / "sd1", tmp_path / "models" / "sd1")
    return tmp_path / "models"


def reason_of(source: ModelSource, name: str) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        read_model(source, name)
    return str(caught.value)


def change_index(directory: Path, **changes: object) -> None:
    file = directory / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


def source_of(directory: Path | None) -> ModelSource:
    return ModelSource(directory, dtype=torch.float32)


_ALL_KINDS = ("txt2img", "img2img", "inpaint")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("sd1", _ALL_KINDS), ("sd1-inpainting", ("inpaint",)), ("owner/sd2", _ALL_KINDS), ("sdxl", _ALL_KINDS)],
)
def test_a_model_tells_its_kinds_and_size(source: ModelSource, name: str, kinds: tuple[TaskKind, ...]) -> None:
    model = read_model(source, name)

    assert model.known == KnownModel(name, kinds, DefaultParameters(width=64, height=64), is_resident=True)
    assert model.num_bytes > 4 * 100_000


def test_a_family_whose_pipelines_change_what_others_share_has_no_kinds(own_dir: Path) -> None:
    """Perturbed-attention guidance puts processors of its own into the UNet while it runs."""
    change_index(own_dir / "sd1", _class_name="StableDiffusionPAGPipeline")

    assert [model.kinds for model in source_of(own_dir).known()] == [()]
    engine = TickedEngine(source_of(own_dir))
    outcome = engine.run([txt2img()])["t"]
    assert outcome == Failed("t", "invalid_input", "Model 'sd1' cannot do txt2img: choose another model")
    assert engine.models.resident() == ("sd1",)
    engine.stop()


def test_a_refiner_starts_from_pictures_alone(tmp_path: Path, model_dir: Path) -> None:
    shutil.copytree(model_dir / "sdxl", tmp_path / "refiner")
    change_index(tmp_path / "refiner", _class_name="StableDiffusionXLImg2ImgPipeline", requires_aesthetics_score=True)

    assert [model.kinds for model in source_of(tmp_path).known()] == [("img2img",)]
    assert read_model(source_of(tmp_path), "refiner").kinds == ("img2img",)
    engine = TickedEngine(source_of(tmp_path))
    outcome = engine.run([txt2img(model="refiner")])["t"]
    assert isinstance(outcome, Failed)
    assert outcome.reason == ("Model 'refiner' cannot do txt2img: choose another model, or send a task of kind img2img")
    engine.stop()


def test_models_below_the_directory_are_known_before_they_are_loaded(source: ModelSource) -> None:
    known = {model.name: model for model in source.known()}

    assert list(known) == sorted(known)
    assert {"flags-all", "owner/sd2", "sd1", "sd1-inpainting", "sdxl", "shapes"} <= known.keys()
    assert known["sd1"].kinds == _ALL_KINDS
    assert known["sd1-inpainting"].kinds == ("inpaint",)
    assert known["shapes"].default_parameters.scheduler == "ddim"
    assert not any(model.is_resident for model in known.values())


def test_what_cannot_be_used_is_not_known(own_dir: Path, model_dir: Path) -> None:
    (own_dir / "linked").symlink_to(model_dir / "sd1")
    (own_dir / "--no name").mkdir()
    (own_dir / "--no name" / "model_index.json").write_text("{}")
    for name, index in [("no-json", "{"), ("no-class", "{}"), ("own-code", '{"_class_name": ["a", "b"]}'), ("no", "1")]:
        (own_dir / name).mkdir()
        (own_dir / name / "model_index.json").write_text(index)

    assert [model.name for model in source_of(own_dir).known()] == ["sd1"]
    assert source_of(None).known() == []


def test_a_resident_model_is_known_once(source: ModelSource) -> None:
    models = Models(source, CPU)
    load_now(models, "sd1")

    known = {model.name: model.is_resident for model in models.known()}

    assert len(known) == len(models.known())
    assert [name for name, is_resident in known.items() if is_resident] == ["sd1"]


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_where_a_safety_checker_is_required_a_model_without_one_is_refused(model_dir: Path, name: str) -> None:
    strict = ModelSource(model_dir, dtype=torch.float32, require_safety_checker=True)

    assert reason_of(strict, name) == (
        f"Model '{name}' has no safety checker, without which this service makes no pictures: choose a model that has "
        "one, or have the operator set SAFETY_FILTER=optional"
    )
    known = [model.name for model in strict.known()]
    assert name not in known
    assert {"flags-all", "flags-none"} <= set(known)
    read_model(strict, "flags-none")


def test_an_index_that_names_a_checker_its_pipeline_does_not_take_is_no_way_around(
    tmp_path: Path, model_dir: Path
) -> None:
    shutil.copytree(model_dir / "sdxl", tmp_path / "sdxl")
    index_file = tmp_path / "sdxl" / "model_index.json"
    checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index_file.write_text(json.dumps({**json.loads(index_file.read_text()), "safety_checker": checker}))
    shutil.copytree(model_dir / "flags-none" / "safety_checker", tmp_path / "sdxl" / "safety_checker")
    strict = ModelSource(tmp_path, dtype=torch.float32, require_safety_checker=True)

    assert "has no safety checker" in reason_of(strict, "sdxl")


def test_weights_are_cast_to_the_devices_format(model_dir: Path) -> None:
    bfloat16 = read_model(ModelSource(model_dir, dtype=torch.bfloat16), "sd1")

    assert bfloat16.num_bytes < 0.6 * read_model(source_of(model_dir), "sd1").num_bytes


def test_a_model_with_the_class_names_of_old_loads(tmp_path: Path, model_dir: Path) -> None:
    """As the hub's stable-diffusion-inpainting, whose class transformers 5 no longer has."""
    shutil.copytree(model_dir / "flags-none", tmp_path / "old")
    index_file = tmp_path / "old" / "model_index.json"
    index = json.loads(index_file.read_text())
    index_file.write_text(json.dumps({**index, "feature_extractor": ["transformers", "CLIPFeatureExtractor"]}))

    assert read_model(source_of(tmp_path), "old").pipeline.components["feature_extractor"] is not None


@pytest.mark.parametrize("name", ["absent", "..", ".", "owner"])
def test_a_name_without_a_directory_is_not_sought_on_the_hub(model_dir: Path, name: str) -> None:
    reason = reason_of(source_of(model_dir), name)

    assert "MODEL_DIR" in reason
    assert str(model_dir) not in reason


def test_the_sentence_for_an_absent_model(model_dir: Path) -> None:
    assert reason_of(source_of(model_dir), "absent") == (
        "Model 'absent' is not a directory below MODEL_DIR: check the name, "
        "or name a repository on the hub as 'owner/name'"
    )
    assert "not a directory below MODEL_DIR" in reason_of(source_of(None), "absent")


@pytest.mark.parametrize("name", ["linked", "owner/linked"])
def test_a_link_out_of_the_directory_is_refused(tmp_path: Path, model_dir: Path, name: str) -> None:
    link = tmp_path / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(model_dir / "sd1")

    assert "leads out of MODEL_DIR" in reason_of(source_of(tmp_path), name)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["../sd1", "a/../../sd1", "{outside}", "..\\sd1", "//host/share", "sd1\x00", "a/\x00"])
def test_a_name_cannot_climb_out_of_the_directory(tmp_path: Path, model_dir: Path, name: str) -> None:
    """Tasks cannot name these at all; should one come here, it finds nothing."""
    shutil.copytree(model_dir / "sd1", tmp_path / "sd1")
    (tmp_path / "models" / "a").mkdir(parents=True)

    reason = reason_of(source_of(tmp_path / "models"), name.format(outside=tmp_path / "sd1"))

    assert "MODEL_DIR" in reason or "There is no model" in reason


def test_a_directory_that_may_not_be_read_is_told_and_is_no_error_of_the_engine(own_dir: Path) -> None:
    source = source_of(own_dir)
    own_dir.chmod(0o000)
    try:
        with as_nobody():
            assert source.is_at_hand("sd1")
            reason = reason_of(source, "sd1")
    finally:
        own_dir.chmod(0o700)

    assert "may not use the files of model 'sd1': have the operator let it read MODEL_DIR" in reason


def test_a_directory_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()

    assert "has no model_index.json" in reason_of(source_of(tmp_path), "notes")


@pytest.mark.parametrize(
    ("part", "safetensors", "pickle"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_pickled_weights_are_not_loaded(own_dir: Path, part: str, safetensors: str, pickle: str) -> None:
    (own_dir / "sd1" / part / safetensors).unlink()
    torch.save({}, own_dir / "sd1" / part / pickle)

    assert "has parts without safetensors weights" in reason_of(source_of(own_dir), "sd1")


def test_damaged_weights_are_told(own_dir: Path) -> None:
    weights = own_dir / "sd1" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    reason = reason_of(source_of(own_dir), "sd1")

    assert "its files are damaged" in reason
    assert str(own_dir) not in reason


@pytest.mark.parametrize("class_name", [["lpw_stable_diffusion", "Pipeline"], ["pipeline", "Pipeline"]])
def test_code_that_comes_with_a_model_is_never_run(own_dir: Path, class_name: list[str]) -> None:
    """diffusers would fetch the first from its community's pipelines without being asked."""
    index_file = own_dir / "sd1" / "model_index.json"
    index = json.loads(index_file.read_text())
    index_file.write_text(json.dumps({**index, "_class_name": class_name}))
    (own_dir / "sd1" / "pipeline.py").write_text("raise SystemExit('the code was run')")

    assert "needs code of its own" in reason_of(source_of(own_dir), "sd1")


@pytest.mark.usefixtures("offline")
def test_a_model_of_the_hub_that_cannot_be_reached(model_dir: Path) -> None:
    assert reason_of(source_of(model_dir), "owner/absent") == (
        "Model 'owner/absent' has not been downloaded, and the worker cannot reach the hub: try again later, "
        "or have the operator put it below MODEL_DIR"
    )


def hub_error(error_class: type[HfHubHTTPError], status: int) -> OSError:
    """As diffusers raises it: wrapped, with the hub's error as what led to it."""
    response = httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/api/models/owner/name"))
    wrapped = OSError("Cannot load model owner/name")
    wrapped.__context__ = error_class("secret detail", response=response)
    return wrapped


@pytest.mark.parametrize(
    ("error_class", "status", "sentence"),
    [
        (GatedRepoError, 403, "is gated: ask for access at https://huggingface.co/owner/name, and have the operator"),
        (RepositoryNotFoundError, 401, "There is no model 'owner/name' on the hub, or it is private: check the name"),
        (RemoteEntryNotFoundError, 404, "lacks a file on the hub: it must be in the layout of diffusers"),
        (HfHubHTTPError, 401, "have the operator check HUGGINGFACE_TOKEN"),
        (HfHubHTTPError, 503, "The hub failed to give model 'owner/name': try again later"),
    ],
)
def test_the_hubs_refusals_become_sentences(error_class: type[HfHubHTTPError], status: int, sentence: str) -> None:
    explained = explain("owner/name", hub_error(error_class, status))

    assert sentence in explained
    assert "secret" not in explained


def test_a_model_that_cannot_be_loaded_fails_its_task_alone(engine: EngineUnderTest) -> None:
    outcome = engine.run(txt2img("a", model="absent"))

    assert outcome.task_id == "a"
    assert getattr(outcome, "code", None) == "model_unavailable"
    engine.finish(txt2img("b"))


def test_the_cpu_computes_in_float32() -> None:
    device = choose_device("cpu")

    assert (device.torch_device.type, device.dtype) == ("cpu", torch.float32)
    assert choose_device("cpu", "bfloat16").dtype == torch.bfloat16
    assert default_budget_bytes(device) > 2**28


@pytest.mark.parametrize(("name", "dtype"), [("cuda:99", "auto"), ("abacus", "auto"), ("cpu", "int3")])
def test_an_unknown_device_or_format_is_refused(name: str, dtype: str) -> None:
    with pytest.raises(DeviceUnavailable):
        choose_device(name, dtype)
