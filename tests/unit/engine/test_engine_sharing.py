"""What samples share, what runs alone, and what a pass that fails does to them."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.engine.company import Alone, variety
from unit.engine.recorder import CPU, KINDS, TickedEngine, WrappedLoader, img2img, network_of, txt2img
from unit.engine.stock import SCHEDULERS

from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.devices import Device
from sd_worker.engine.models.loaded_model import LoadedModel, OnLoadProgress, ReadModel
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.sharing import Sharing, sharing_of
from sd_worker.engine.tasks import Cancelled, EngineTask, Failed, Finished
from support.read_model import read_model

#: Untyped.
hooks = import_module("accelerate.hooks")


@pytest.fixture
def company(ticked: TickedEngine) -> TickedEngine:
    """An engine that knows already how many rows a pass takes: until it does, it begins with one sample."""
    ticked.finish(txt2img(steps=1))
    return ticked


@contextmanager
def rows_of_passes(model: LoadedModel | None, most_rows: int | None = None) -> Iterator[list[int]]:
    """The rows of each forward pass of the UNet from now on. One of more than `most_rows` runs out of memory."""
    assert model is not None
    unet = model.pipeline.components["unet"]
    assert isinstance(unet, torch.nn.Module)
    rows: list[int] = []

    def look(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(arguments[0]))
        if most_rows is not None and rows[-1] > most_rows:
            raise torch.OutOfMemoryError("out of memory")

    hook = unet.register_forward_pre_hook(look)
    yield rows
    hook.remove()


def alike(num_tasks: int, *, steps: int) -> list[EngineTask]:
    """Tasks that differ in their seeds alone."""
    return [txt2img(str(number), seed=number, steps=steps, scheduler="ddim") for number in range(num_tasks)]


def decode_one_after_another(company: TickedEngine) -> None:
    vae = network_of(company.models, "sd1", "vae")
    company.row_caps.lower(NetworkCall("decode", vae, (torch.zeros(1, 4, 8, 8),), {}), 1)


def test_tasks_of_the_same_steps_share_every_pass(company: TickedEngine) -> None:
    tasks = alike(4, steps=5)

    with rows_of_passes(company.models.get("sd1")) as rows:
        company.run(tasks, per_join=4)

    assert rows == [8] * 5


def test_who_waits_begins_while_the_pictures_of_others_are_decoded(company: TickedEngine) -> None:
    """So that passes stay full."""
    tasks = alike(8, steps=5)
    decode_one_after_another(company)

    with rows_of_passes(company.models.get("sd1")) as rows:
        company.run(tasks, per_join=8)

    assert rows == [8] * 10


def test_pictures_that_wait_to_be_decoded_do_not_pile_up(company: TickedEngine) -> None:
    tasks = alike(80, steps=2)
    decode_one_after_another(company)
    most_in_flight = 0

    company.outcomes = {}
    for task in tasks:
        company.engine.submit(task)
    while len(company.outcomes) < len(tasks):
        company.tick()
        num_begun = sum(bool(company.recorder.steps_of(task.task_id)) for task in tasks)
        most_in_flight = max(most_in_flight, num_begun - len(company.outcomes))

    # A pass has four of them. Some are in the threads that make PNGs.
    assert most_in_flight <= 5 * 4


def test_one_that_takes_two_rows_is_not_kept_waiting_by_those_that_take_one(company: TickedEngine) -> None:
    def submit_plain(number: int) -> None:
        company.engine.submit(txt2img(f"plain {number}", steps=8, guidance=1.0, scheduler="ddim"))

    company.outcomes = {}
    for number in range(8):
        submit_plain(number)
        company.tick()  # so that they end one after another, and never leave two rows at once
    company.engine.submit(txt2img("guided", steps=3, scheduler="ddim"))
    num_plain = 8
    while not company.recorder.steps_of("guided"):
        while num_plain <= len(company.outcomes) + 8:
            submit_plain(num_plain)
            num_plain += 1
        company.tick()
        assert len(company.outcomes) < 16


@pytest.mark.parametrize(("guidance", "num_rows"), [(1.0, 1), (7.5, 2)])
def test_guidance_takes_a_second_row(company: TickedEngine, guidance: float, num_rows: int) -> None:
    with rows_of_passes(company.models.get("sd1")) as rows:
        company.finish(txt2img(steps=3, scheduler="ddim", guidance=guidance))

    assert rows == [num_rows] * 3


def test_tasks_with_and_without_guidance_of_other_steps_and_kinds_share_passes(company: TickedEngine) -> None:
    tasks = [
        KINDS[kind](f"{kind} {guidance}", steps=steps, scheduler="ddim", guidance=guidance)
        for kind, steps in [("txt2img", 4), ("inpaint", 6)]
        for guidance in (1.0, 3.0)
    ]

    with rows_of_passes(company.models.get("sd1")) as rows:
        company.run(tasks, per_join=4)

    assert rows == [6] * 4 + [3] * 2


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """What is in a circle stays in memory."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def start_until_previewed(company: TickedEngine, *tasks: EngineTask) -> dict[str, weakref.ref[torch.Tensor]]:
    """Tick until each has made a step; the latents of the last one of each."""
    for task in tasks:
        company.engine.submit(task)
    while not {task.task_id for task in tasks} <= {task_id for task_id, _ in company.recorder.previews}:
        company.tick()
    latents = {task_id: weakref.ref(latents) for task_id, latents in company.recorder.previews}
    company.recorder.previews.clear()
    return latents


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_cancelled_sample_leaves_at_once_and_its_tensors_are_freed(company: TickedEngine, scheduler: str) -> None:
    tasks = [txt2img(task_id, steps=50, scheduler=scheduler) for task_id in ("cancelled", "other")]
    latents = start_until_previewed(company, *tasks)

    with without_garbage_collection(), rows_of_passes(company.models.get("sd1")) as rows:
        company.engine.cancel("cancelled")
        company.tick()

        assert company.outcomes["cancelled"] == Cancelled("cancelled")
        assert rows == [2]
        assert latents["cancelled"]() is None
    company.engine.cancel_all()
    company.tick()


@pytest.mark.parametrize("scheduler", ["ddim", "k-lms"])
def test_the_tensors_of_a_sample_that_ends_or_fails_are_freed(
    company: TickedEngine, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest would keep the traceback that is logged.
    monkeypatch.setattr(logging.getLogger("sd_worker.engine.failures"), "disabled", True)
    failing = txt2img("failing", steps=50, scheduler=scheduler)
    latents = start_until_previewed(company, failing, txt2img("ending", steps=2, scheduler=scheduler))
    with without_garbage_collection():
        while "ending" not in company.outcomes:
            company.tick()
        company.recorder.previews.clear()
        assert latents["ending"]() is None

        latents |= start_until_previewed(company, txt2img("other", steps=50, scheduler=scheduler))
        with rows_of_passes(company.models.get("sd1"), most_rows=1):
            company.engine.cancel("other")
            while "failing" not in company.outcomes:
                company.tick()
        company.recorder.previews.clear()
        assert isinstance(company.outcomes["failing"], Failed)
        assert latents["failing"]() is None


class Hooked(WrappedLoader):
    """Loads models with a hook of accelerate on their UNet, as offloading has it."""

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        read = self._loader.fetch(name, on_progress)

        def read_and_hook(on_progress: OnLoadProgress) -> LoadedModel:
            model = read(on_progress)
            unet = model.pipeline.components["unet"]
            assert isinstance(unet, torch.nn.Module)
            hooks.add_hook_to_module(unet, hooks.ModelHook())
            return LoadedModel(name, model.pipeline, model.default_parameters)

        return read_and_hook


def test_a_model_with_hooks_of_accelerate_runs_alone_and_gives_the_same_pictures(
    source: ModelSource, company: TickedEngine
) -> None:
    hooked = TickedEngine(Hooked(source), "sd1")
    hooked.finish(txt2img(steps=1))
    tasks = [txt2img(str(number), seed=number, steps=3 + number, scheduler="ddim") for number in range(3)]

    with rows_of_passes(hooked.models.get("sd1")) as rows:
        outcomes = hooked.run(tasks, per_join=3)

    assert set(rows) == {2}
    (known,) = [model for model in hooked.models.known() if model.is_resident]
    assert known.runs_alone
    Alone(company).assert_within(0, tasks, outcomes)
    hooked.stop()


def test_a_vae_that_its_pipeline_casts_back_and_forth_decodes_for_one_sample_at_a_time(model_dir: Path) -> None:
    def sharing(name: str, dtype: torch.dtype) -> Sharing:
        return sharing_of(read_model(ModelSource(model_dir, dtype=dtype), name).pipeline)

    assert sharing("sdxl", torch.float16) == Sharing(shares_denoising=True, shares_decoding=False)
    assert sharing("sdxl", torch.bfloat16) == Sharing(shares_denoising=True, shares_decoding=True)
    # Their VAEs have the option, too, and their pipelines do not heed it.
    assert sharing("sd1", torch.float16) == Sharing(shares_denoising=True, shares_decoding=True)


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
def test_sdxl_in_float16_decodes_in_float32_and_goes_on_in_float16(model_dir: Path) -> None:
    loader = ModelSource(model_dir, dtype=torch.float16)
    engine = TickedEngine(loader, "sdxl", device=Device(CPU.torch_device, torch.float16))
    tasks = variety("sdxl", ["euler", "ddim"])

    outcomes = dict(engine.run(tasks))

    differences = Alone(engine).differences(tasks, outcomes)
    assert max(int(values.max()) for values in differences.values()) <= 4
    assert all(outcome.timings.decoding_s > 0 for outcome in outcomes.values() if isinstance(outcome, Finished))
    engine.stop()


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_sdxl_that_runs_out_of_memory_in_its_cast_vae_leaves_it_as_it_was(model_dir: Path, network: str) -> None:
    loader = ModelSource(model_dir, dtype=torch.float16)
    engine = TickedEngine(loader, "sdxl", device=Device(CPU.torch_device, torch.float16))
    model = engine.models.get("sdxl")
    assert model is not None
    module = getattr(model.pipeline.components["vae"], network)
    own: dict[str, Any] = {"model": "sdxl", "scheduler": "euler"}
    tasks = [txt2img("first", steps=8, **own), *(img2img(str(number), seed=number, **own) for number in range(2))]
    alone = Alone(engine)
    for task in tasks:
        alone.pixels(task)

    def run_out(module: torch.nn.Module, arguments: object) -> None:
        hook.remove()
        raise torch.OutOfMemoryError("out of memory")

    hook = module.register_forward_pre_hook(run_out)
    outcomes = engine.run(tasks, per_join=3)

    assert engine.models.get("sdxl") is model
    assert max(int(values.max()) for values in alone.differences(tasks, outcomes).values()) <= 4
    engine.stop()


def test_who_runs_out_of_memory_holds_none_while_the_others_pass_is_made(company: TickedEngine) -> None:
    unet = network_of(company.models, "sd1", "unet")
    held: list[weakref.ref[torch.Tensor]] = []
    were_free: list[bool] = []

    def run_out(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if len(arguments[0]) == 2 and held:
            were_free.append(held[0]() is None)
            return
        activations = torch.zeros(8)
        if len(arguments[0]) == 2:
            held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("out of memory")

    unet.register_forward_pre_hook(run_out)
    outcomes = company.run(alike(2, steps=2), per_join=2)

    assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
    assert were_free
    assert all(were_free)


def test_a_pass_that_runs_out_of_memory_is_made_smaller_and_nobody_fails(company: TickedEngine) -> None:
    tasks = alike(4, steps=4)

    with rows_of_passes(company.models.get("sd1"), most_rows=4) as rows:
        outcomes = dict(company.run(tasks, per_join=4))

    assert all(isinstance(outcome, Finished) for outcome in outcomes.values())
    assert rows == [8] + [4] * 8
    Alone(company).assert_within(1, tasks, outcomes)
