"""The models of an engine: those that are resident, and those that are on their way to the device."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from sd_worker.engine.cores import compute_on
from sd_worker.engine.devices import Device, is_out_of_memory
from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.models.fetches import Fetches
from sd_worker.engine.models.loaded_model import LoadedModel, ModelLoader, OnLoadProgress, ReadModel
from sd_worker.engine.models.resident_models import ResidentModels
from sd_worker.engine.reports import KnownModel, LoadProgress, ModelChange, ModelLoad


@dataclass
class _Load:
    """A model on its way from the disk: read to the CPU, where its size becomes known, and moved to the device once
    there is memory for it."""

    name: str
    read: ReadModel
    begun_at: float
    #: None while it waits for its turn, and once it has been read, for memory.
    step: Future[LoadedModel] | None = None
    #: Once it has been read.
    model: LoadedModel | None = None
    progress: LoadProgress | None = None
    #: Memory ran out beside others.
    is_to_be_alone: bool = False
    has_ended: bool = False
    #: Because of which it has ended without the model.
    error: BaseException | None = None


class Models(ResidentModels):
    """Loads models, and drops those used least recently where they need memory.

    Several are fetched side by side (`fetches`); in another thread one at a time is read and moved to the device. Those
    at hand need no fetch, so that no download keeps them waiting.

    The engine thread alone calls it, but for `resident`, `fetching`, `known` and `memory`, which any thread may.
    """

    def __init__(
        self,
        loader: ModelLoader,
        device: Device,
        budget_bytes: int | None = None,
        on_model: Callable[[ModelChange], None] = lambda change: None,
    ) -> None:
        """`budget_bytes` None: what `default_budget_bytes` says. A model beyond the budget is loaded alone. `on_model`
        is called in the engine's thread, and must not raise."""
        super().__init__(device, budget_bytes, on_model)
        self._on_change: Callable[[], None] = lambda: None
        self._loader = loader
        self._fetches = Fetches(loader, lambda: self._on_change())
        #: On the disk, in turn: the first is read, or being moved.
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        # What is read for a GPU is converted on the CPU, of which the engine then needs little.
        num_cores = 1 if device.torch_device.type == "cpu" else torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "model-loader", compute_on, (num_cores,))
        self._is_stopped = False

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `poll` has something to do, and when there is progress: from other threads."""
        self._on_change = callback

    @property
    def coming(self) -> dict[str, LoadProgress | None]:
        """The models that are on their way, and how far each is."""
        return {**self._fetches.progress(), **{load.name: load.progress for load in self._loads.values()}}

    def fetching(self) -> tuple[str, ...]:
        """Names of the models that are being brought to the disk."""
        return self._fetches.names

    @property
    def waits_for_memory(self) -> bool:
        """Whether a model on its way waits until no sample runs on those that must go for it."""
        load = self._first_load()
        return load is not None and load.model is not None and load.step is None

    def poll(self, wanted: Sequence[str]) -> dict[str, BaseException | None]:
        """Take what is on its way further, where it can be, and begin with what is wanted and not resident, the first
        of it first. What nobody wants any more is given up, but for what is being read.

        Returns the models that have become resident, and those that have not with the error because of which.
        """
        self._free_garbage()
        if self._is_stopped:
            return {}
        ended = self._fetch([name for name in wanted if name not in self._models])
        self._give_up_all_but(wanted)
        while (load := self._first_load()) is not None:
            self._take_further(load)
            if not load.has_ended:
                break
            del self._loads[load.name]
            ended[load.name] = load.error
            self._on_model(ModelLoad(load.name, load.error is None, time.perf_counter() - load.begun_at))
        return ended

    def known(self) -> tuple[KnownModel, ...]:
        """The resident models, and those that the loader has at hand. Reads files."""
        resident = self._known_resident
        names = {model.name for model in resident}
        return *resident, *(model for model in self._loader.known() if model.name not in names)

    def stop(self) -> None:
        """Load nothing more. What is under way is given up: it ends at its next progress. Idempotent."""
        self._is_stopped = True
        self._fetches.stop()
        self._loads.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _first_load(self) -> _Load | None:
        return next(iter(self._loads.values()), None)

    def _fetch(self, missing: Sequence[str]) -> dict[str, BaseException | None]:
        """Queue what is on the disk, and have the rest fetched. Returns what could not be, and why."""
        failed: dict[str, BaseException | None] = {}
        missing = [name for name in missing if name not in self._loads]
        for name in missing:
            if name not in self._fetches and self._loader.is_at_hand(name):
                self._loads[name] = _Load(name, partial(_fetch_and_read, self._loader, name), time.perf_counter())
        for fetch in self._fetches.poll([name for name in missing if name not in self._loads]):
            if (error := fetch.result.exception()) is None:
                self._loads[fetch.name] = _Load(fetch.name, fetch.result.result(), fetch.begun_at)
            else:
                failed[fetch.name] = error
                self._on_model(ModelLoad(fetch.name, False, time.perf_counter() - fetch.begun_at))
        return failed

    def _give_up_all_but(self, wanted: Sequence[str]) -> None:
        """Of those that wait, for their turn or for memory."""
        unwanted = [load for load in self._loads.values() if load.step is None and load.name not in wanted]
        has_been_read = any(load.model is not None for load in unwanted)
        while unwanted:
            del self._loads[unwanted.pop().name]
        if has_been_read:
            self._free()

    def _take_further(self, load: _Load) -> None:
        if load.step is not None:
            if not load.step.done():
                return
            if (error := load.step.exception()) is not None:
                self._fail(load, error)
                return
            if load.model is not None:
                self._add(load.model)
                load.has_ended = True
                return
            load.model, load.step = load.step.result(), None
        model = load.model
        if model is None:
            load.step = self._in_thread(lambda: self._read(load))
        elif self._free_memory_for(model.num_bytes, is_to_be_alone=load.is_to_be_alone):
            load.step = self._in_thread(lambda: _moved(model, self._device))

    def _read(self, load: _Load) -> LoadedModel:
        def on_progress(progress: LoadProgress) -> None:
            if self._is_stopped:
                raise EngineStopped("the load is given up")
            load.progress = progress
            self._on_change()

        return load.read(on_progress)

    def _in_thread(self, step: Callable[[], LoadedModel]) -> Future[LoadedModel]:
        future = self._thread.submit(step)
        future.add_done_callback(lambda _: self._on_change())
        return future

    def _fail(self, load: _Load, error: BaseException) -> None:
        if is_out_of_memory(error) and not load.is_to_be_alone and self._models:
            load.is_to_be_alone = True
            load.model = None
            self.drop_unused()
            load.step = self._in_thread(lambda: self._read(load))
            return
        load.has_ended, load.error, load.model = True, error, None
        self._free()


def _fetch_and_read(loader: ModelLoader, name: str, on_progress: OnLoadProgress) -> LoadedModel:
    """A model at hand, of which nothing is downloaded."""
    return loader.fetch(name, on_progress)(on_progress)


def _moved(model: LoadedModel, device: Device) -> LoadedModel:
    model.pipeline.to(device.torch_device)
    return model
