"""What fails ends its own task alone, and what ran out of memory is tried once more."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.engine.recorder import (
    TIMEOUT_S,
    CreateEngine,
    EngineUnderTest,
    GatedLoader,
    RaisingLoader,
    img2img,
    network_of,
    picture,
    txt2img,
)
from unit.engine.stock import picture_by

from sd_worker.engine.devices import Device
from sd_worker.engine.errors import DeviceUnavailable, EngineStopped
from sd_worker.engine.failures import failure_of
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.rooms import Rooms
from sd_worker.engine.tasks import Cancelled, Failed, Finished, Progress

#: Untyped, and mypy does not see through its lazy imports.
diffusers = import_module("diffusers")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("a bug"), "internal"),
        (SystemExit(3), "internal"),
        (KeyboardInterrupt(), "internal"),
    ],
)
def test_whatever_is_raised_the_task_fails_and_the_engine_goes_on(
    create_engine: CreateEngine, source: ModelSource, error: BaseException, code: str
) -> None:
    engine = create_engine(RaisingLoader(source, error))

    outcome = engine.run(txt2img("a"))

    assert isinstance(outcome, Failed)
    assert (outcome.task_id, outcome.code) == ("a", code)
    assert isinstance(engine.run(txt2img("b")), Finished)
    assert engine.recorder.outcomes.empty()


@pytest.mark.parametrize("deterministic", [False, True])
def test_who_has_too_little_memory_is_told_what_to_do(deterministic: bool) -> None:
    failed = failure_of(txt2img(deterministic=deterministic), MemoryError())

    assert "ask for a smaller picture, or choose a smaller model" in failed.reason
    assert ("turn 'deterministic' off" in failed.reason) == deterministic


def test_the_log_names_a_task_as_its_owner_does(caplog: pytest.LogCaptureFixture) -> None:
    """The engine's own name for it may hold more than others are to read."""
    failed = failure_of(replace(txt2img("alice.session.t"), logged_id="t"), RuntimeError("a bug"))
    failure_of(txt2img("plain"), RuntimeError("a bug"))

    assert failed.task_id == "alice.session.t"
    assert [record.__dict__["task_id"] for record in caplog.records] == ["t", "plain"]


def test_an_error_in_the_middle_makes_the_model_be_loaded_afresh(engine: EngineUnderTest) -> None:
    """It may have left shared modules half changed."""
    before = engine.finish(txt2img("a")).png
    model = engine.models.get("sd1")
    assert model is not None

    def fail_once(*_: object) -> None:
        hook.remove()
        raise RuntimeError("a kernel failed")

    vae = model.pipeline.components["vae"]
    assert isinstance(vae, torch.nn.Module)
    hook = vae.get_submodule("decoder").register_forward_pre_hook(fail_once)

    outcome = engine.run(txt2img("b"))

    assert isinstance(outcome, Failed)
    assert outcome.code == "internal"
    assert engine.models.resident() == ()
    assert engine.finish(txt2img("c")).png == before


@pytest.fixture
def crowded(create_engine: CreateEngine) -> EngineUnderTest:
    """An engine that has two models, and memory for passes of "sd1" only without "owner/sd2"."""
    engine = create_engine()
    engine.finish(txt2img("other", model="owner/sd2"))
    engine.finish(txt2img("warm"))

    def run_out(*_: object) -> None:
        if "owner/sd2" in engine.models.resident():
            raise torch.OutOfMemoryError("CUDA out of memory")

    network_of(engine.models, "sd1", "unet").register_forward_pre_hook(run_out)
    return engine


def test_memory_that_runs_out_beside_other_models_is_freed_and_the_task_tried_again(crowded: EngineUnderTest) -> None:
    assert isinstance(crowded.run(txt2img("b")), Finished)
    assert crowded.models.resident() == ("sd1",)


def test_a_task_that_is_tried_again_shares_memory_with_no_model_that_others_ran_on_or_wait_for(
    crowded: EngineUnderTest,
) -> None:
    def submit_others(progress: Progress) -> None:
        if progress.task_id == "long" and progress.step == 1:
            crowded.engine.submit(txt2img("unlucky", steps=100))  # longer than a load
        if progress.task_id == "long" and progress.step == 5:  # by then "unlucky" waits for another try
            crowded.engine.submit(txt2img("behind", model="owner/sd2"))

    crowded.recorder.at_progress = submit_others
    crowded.engine.submit(txt2img("long", model="owner/sd2", steps=10))
    outcomes = [crowded.recorder.next_outcome() for _ in range(3)]

    assert [type(outcome) for outcome in outcomes] == [Finished] * 3, outcomes
    assert [outcome.task_id for outcome in outcomes] == ["long", "unlucky", "behind"]


def test_memory_that_runs_out_alone_fails_the_task_after_one_try(
    create_engine: CreateEngine, source: ModelSource
) -> None:
    engine = create_engine(RaisingLoader(source, MemoryError(), MemoryError()))

    first, second = engine.run(txt2img("a")), engine.run(txt2img("b"))

    assert [getattr(outcome, "code", None) for outcome in (first, second)] == ["out_of_memory"] * 2
    assert isinstance(engine.run(txt2img("c")), Finished)


def test_who_asks_for_a_model_that_is_too_large_is_not_told_to_ask_for_a_smaller_picture(
    create_engine: CreateEngine, source: ModelSource
) -> None:
    engine = create_engine(RaisingLoader(source, torch.OutOfMemoryError("CUDA out of memory")))

    outcome = engine.run(txt2img("a"))

    assert isinstance(outcome, Failed)
    assert outcome.code == "out_of_memory"
    assert "too little memory to load model 'sd1': choose a smaller model" in outcome.reason
    assert "picture" not in outcome.reason


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["GPU", "CPU"],
)
def test_a_task_that_is_tried_again_has_the_device_for_itself(create_engine: CreateEngine, error: Exception) -> None:
    """Memory runs out in company, whoever came after it."""
    engine = create_engine()
    engine.finish(txt2img("warm"))
    vae = network_of(engine.models, "sd1", "vae")
    tries: list[int] = []

    def run_out_in_company(*_: object) -> None:
        tries.append(engine.engine._engine.workload.num_samples)
        if tries[-1] > 1:
            raise error

    vae.get_submodule("encoder").register_forward_pre_hook(run_out_in_company)
    del vae

    def submit_others(progress: Progress) -> None:
        if progress.task_id == "long" and progress.step == 1:
            engine.engine.submit(img2img("unlucky"))
            engine.engine.submit(txt2img("later", steps=3))

    engine.recorder.at_progress = submit_others
    engine.engine.submit(txt2img("long", steps=20))
    outcomes = [engine.recorder.next_outcome() for _ in range(3)]

    assert all(isinstance(outcome, Finished) for outcome in outcomes), outcomes
    assert tries == [2, 1]


def test_a_device_that_has_failed_hands_all_tasks_back_and_takes_no_more(
    create_engine: CreateEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine()
    engine.finish(txt2img("warm"))
    unet = network_of(engine.models, "sd1", "unet")

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def fail_too(device: object) -> None:
        raise DeviceUnavailable("Device 'cuda' has failed: restart the worker")

    unet.register_forward_pre_hook(fail)
    monkeypatch.setattr("sd_worker.engine.models.resident_models.check_device", fail_too)
    engine.engine.submit(txt2img("a"))
    engine.engine.submit(txt2img("b", model="sdxl"))

    assert {engine.recorder.next_outcome(), engine.recorder.next_outcome()} == {Cancelled("a"), Cancelled("b")}
    with pytest.raises(EngineStopped):
        engine.engine.submit(txt2img("c"))
    assert engine.engine.has_failed()


def test_a_device_that_has_failed_during_a_load_hands_all_tasks_back_and_takes_no_more(
    create_engine: CreateEngine, source: ModelSource
) -> None:
    """No machine has this device: models are read, and cannot be moved there."""
    loader = GatedLoader(source)
    engine = create_engine(loader, Device(torch.device("cuda:99"), torch.float32), budget_bytes=2**30)
    for task_id, model in (("a", "sd1"), ("b", "sd1"), ("c", "sdxl")):
        engine.engine.submit(txt2img(task_id, model=model))
    loader.gate.set()

    outcomes = {engine.recorder.next_outcome() for _ in range(3)}

    assert outcomes == {Cancelled("a"), Cancelled("b"), Cancelled("c")}
    assert engine.engine.has_failed()
    with pytest.raises(EngineStopped):
        engine.engine.submit(txt2img("d"))


def test_an_error_of_a_pipeline_itself_keeps_the_model(
    engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has changed nothing that is shared: one client's odd task costs nobody a load."""
    engine.finish(txt2img("warm"))

    def fail(*_: object) -> None:
        raise RuntimeError("cannot make latents of this")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "prepare_latents", fail)
    outcome = engine.run(txt2img("a"))

    assert isinstance(outcome, Failed)
    assert outcome.code == "internal"
    assert engine.models.resident() == ("sd1",)


def test_a_call_that_cannot_be_grouped_fails_its_own_task_alone(
    engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.finish(txt2img("warm"))

    with monkeypatch.context() as patched:
        patched.setattr("sd_worker.engine.batches.shape_of", lambda value: {"unhashable": value})
        outcome = engine.run(txt2img("a"))

    assert isinstance(outcome, Failed)
    assert outcome.code == "internal"
    engine.finish(txt2img("b"))


def test_an_engine_that_cannot_tell_what_it_has_to_do_hands_all_tasks_back(
    engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.finish(txt2img("warm"))

    def fail(rooms: object) -> float:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Rooms, "passes", property(fail))
    engine.engine.submit(txt2img("a"))

    assert engine.recorder.next_outcome() == Cancelled("a")
    assert engine.engine.stop(TIMEOUT_S)
    assert engine.engine.has_failed()


def test_a_picture_too_large_to_be_decoded_at_once_is_decoded_in_tiles(
    create_engine: CreateEngine, model_dir: Path
) -> None:
    """Where nothing more can go from memory. Others, and later ones, are decoded as ever."""
    engine = create_engine()
    small = engine.finish(txt2img("small")).png
    vae: Any = network_of(engine.models, "sd1", "vae")
    sides: list[int] = []

    def run_out(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        sides.append(arguments[0].shape[-1])
        if sides[-1] > vae.tile_latent_min_size:
            raise torch.OutOfMemoryError("CUDA out of memory")

    vae.decoder.register_forward_pre_hook(run_out)
    task = txt2img("large", width=128, height=128)

    finished = engine.finish(task)

    assert sides[0] == 16
    assert set(sides[1:]) <= set(range(1, 9))
    stock = diffusers.StableDiffusionPipeline.from_pretrained(model_dir / "sd1", local_files_only=True)
    stock.vae.enable_tiling()
    assert picture(finished).tobytes() == picture_by(stock, task).tobytes()
    assert vae.use_tiling is False
    assert engine.finish(txt2img("small")).png == small


@pytest.mark.parametrize("side_px", [64, 128])
def test_who_would_be_helped_by_no_tiles_is_not_run_again(create_engine: CreateEngine, side_px: int) -> None:
    """A picture no larger than a tile; or a VAE that decodes in tiles anyway."""
    engine = create_engine()
    engine.finish(txt2img("warm"))
    vae: Any = network_of(engine.models, "sd1", "vae")
    vae.use_tiling = side_px > vae.tile_sample_min_size
    tries: list[object] = []

    def run_out(*_: object) -> None:
        tries.append(None)
        raise torch.OutOfMemoryError("CUDA out of memory")

    vae.decoder.register_forward_pre_hook(run_out)
    outcome = engine.run(txt2img("a", width=side_px, height=side_px))

    assert isinstance(outcome, Failed)
    assert outcome.code == "out_of_memory"
    assert len(tries) == 1


def test_an_error_in_a_network_that_is_not_shared_makes_the_model_be_loaded_afresh(engine: EngineUnderTest) -> None:
    engine.finish(txt2img("warm"))

    def fail(*_: object) -> None:
        raise RuntimeError("a kernel failed")

    network_of(engine.models, "sd1", "text_encoder").register_forward_pre_hook(fail)
    outcome = engine.run(txt2img("a", prompt="a prompt that no cache knows"))

    assert isinstance(outcome, Failed)
    assert engine.models.resident() == ()
    engine.finish(txt2img("b", prompt="a prompt that no cache knows"))
