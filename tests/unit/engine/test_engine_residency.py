"""Models are kept within a budget, and really freed."""

from __future__ import annotations

import threading
import weakref

import pytest
import torch
from unit.engine.recorder import (
    CPU,
    TIMEOUT_S,
    EngineUnderTest,
    GatedLoader,
    WrappedLoader,
    load_now,
    txt2img,
)

from sd_worker.engine.models.loaded_model import LoadedModel, ModelLoader, OnLoadProgress, ReadModel
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.reports import MemoryUse, ModelChange, ModelDropped, ModelLoad
from support.read_model import read_model


def test_the_least_recently_used_model_goes_when_the_budget_is_full(source: ModelSource) -> None:
    two_models = read_model(source, "sd1").num_bytes + read_model(source, "sd1-inpainting").num_bytes + 1000
    models = Models(source, CPU, budget_bytes=two_models)
    sd1 = load_now(models, "sd1")
    load_now(models, "sd1-inpainting")
    models.pin(sd1)
    models.unpin(sd1)
    assert models.resident() == ("sd1-inpainting", "sd1")

    load_now(models, "owner/sd2")

    assert models.resident() == ("sd1", "owner/sd2")


def test_loads_and_drops_are_told(source: ModelSource) -> None:
    changes: list[ModelChange] = []
    one_model = read_model(source, "sd1").num_bytes + 1000
    models = Models(source, CPU, one_model, changes.append)
    load_now(models, "sd1")
    sd1_bytes = models.memory().models_bytes
    load_now(models, "owner/sd2")
    with pytest.raises(AssertionError):
        load_now(models, "nothing-has-this-name")
    told = [(type(change), change.name, getattr(change, "has_come", None)) for change in changes]
    assert told == [
        (ModelLoad, "sd1", True),
        (ModelDropped, "sd1", None),
        (ModelLoad, "owner/sd2", True),
        (ModelLoad, "nothing-has-this-name", False),
    ]
    assert all(change.seconds > 0 for change in changes if isinstance(change, ModelLoad))
    assert 0 < sd1_bytes <= one_model
    assert models.memory() == MemoryUse(1, read_model(source, "owner/sd2").num_bytes)


def test_a_model_waits_for_memory_until_no_sample_runs_on_the_others(source: ModelSource) -> None:
    models = Models(source, CPU, budget_bytes=read_model(source, "sd1").num_bytes + 1000)
    sd1 = load_now(models, "sd1")
    models.pin(sd1)
    read = threading.Event()
    models.on_change(read.set)
    assert models.poll(["owner/sd2"]) == {}
    while not models.waits_for_memory:
        assert read.wait(TIMEOUT_S)
        read.clear()
        assert models.poll(["owner/sd2"]) == {}
    assert models.resident() == ("sd1",)

    models.unpin(sd1)
    assert models.poll(["owner/sd2"]) == {}
    assert models.resident() == ()
    assert read.wait(TIMEOUT_S)
    assert models.poll(["owner/sd2"]) == {"owner/sd2": None}
    assert models.resident() == ("owner/sd2",)


def test_a_model_that_nobody_wants_once_it_is_read_drives_no_other_out(source: ModelSource) -> None:
    loader = GatedLoader(source)
    loader.gate.set()
    models = Models(loader, CPU, budget_bytes=read_model(source, "sd1").num_bytes + 1000)
    load_now(models, "sd1")
    loader.gate.clear()
    loader.entered.clear()
    models.poll(["owner/sd2"])
    assert loader.entered.wait(TIMEOUT_S)

    changed = threading.Event()
    models.on_change(changed.set)
    models.poll([])
    loader.gate.set()
    while models.coming:
        assert changed.wait(TIMEOUT_S)
        changed.clear()
        assert models.poll([]) == {}

    assert models.resident() == ("sd1",)


class NoRoomAtFirst(WrappedLoader):
    """The first model of `name` that is read cannot be moved to the device for lack of memory."""

    def __init__(self, loader: ModelLoader, name: str) -> None:
        super().__init__(loader)
        self._name = name
        self.first: weakref.ref[object] | None = None

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        read = super().fetch(name, on_progress)
        return read if name != self._name else lambda on_progress: self._read(read, on_progress)

    def _read(self, read: ReadModel, on_progress: OnLoadProgress) -> LoadedModel:
        model = read(on_progress)
        if self.first is None:
            self.first = weakref.ref(model.pipeline.components["unet"])
            setattr(model.pipeline, "to", self._run_out)  # noqa: B010  # mypy takes a method for no variable
        return model

    @staticmethod
    def _run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_model_for_which_memory_ran_out_half_way_is_gone_when_memory_is_freed_for_it(source: ModelSource) -> None:
    loader = NoRoomAtFirst(source, "owner/sd2")
    was_gone: list[bool] = []

    def look(change: ModelChange) -> None:
        if isinstance(change, ModelDropped) and loader.first is not None:
            was_gone.append(loader.first() is None)

    models = Models(loader, CPU, on_model=look)
    load_now(models, "sd1")

    load_now(models, "owner/sd2")

    assert was_gone == [True]
    assert models.resident() == ("owner/sd2",)


def test_a_model_that_was_dropped_counts_until_its_last_sample_has_ended(source: ModelSource) -> None:
    """As after an internal error, when it is to be loaded afresh."""
    models = Models(source, CPU, budget_bytes=read_model(source, "sd1").num_bytes + 1000)
    dropped = load_now(models, "sd1")
    models.pin(dropped)
    models.drop("sd1")
    changed = threading.Event()
    models.on_change(changed.set)
    assert models.poll(["sd1"]) == {}
    while not models.waits_for_memory:
        assert changed.wait(TIMEOUT_S)
        changed.clear()
        assert models.poll(["sd1"]) == {}
    unet = weakref.ref(dropped.pipeline.components["unet"])

    models.unpin(dropped)
    del dropped
    assert models.poll(["sd1"]) == {}
    assert unet() is None
    assert changed.wait(TIMEOUT_S)
    assert models.poll(["sd1"]) == {"sd1": None}


def test_a_model_that_goes_frees_its_memory(source: ModelSource) -> None:
    models = Models(source, CPU, budget_bytes=1)
    parts = load_now(models, "sd1").pipeline.components
    modules = [weakref.ref(part) for part in parts.values() if isinstance(part, torch.nn.Module)]
    del parts
    assert len(modules) == 3

    load_now(models, "owner/sd2")

    assert models.resident() == ("owner/sd2",)
    assert [module() for module in modules] == [None] * 3


def test_a_model_that_has_run_tasks_can_be_freed_too(engine: EngineUnderTest) -> None:
    engine.finish(txt2img(model="flags-none"))
    engine.recorder.at_progress = lambda progress: engine.engine.cancel("b") if progress.step == 1 else None
    engine.run(txt2img("b", model="flags-none"))
    model = engine.models.get("flags-none")
    assert model is not None
    unet = weakref.ref(model.pipeline.components["unet"])
    del model

    # It waits for its next task: what it did last is still on its stack.
    engine.finish(txt2img())
    engine.models.drop_unused()

    assert unet() is None
    assert engine.models.resident() == ()
