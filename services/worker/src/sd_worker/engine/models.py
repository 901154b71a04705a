"""The models that are resident on the device, and those that are on their way there."""

from __future__ import annotations

import gc
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sd_worker.engine.devices import (
    Device,
    check_device,
    default_budget_bytes,
    free_unused_memory,
    gpu_memory_bytes,
    is_out_of_memory,
)
from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.fetches import Fetches
from sd_worker.engine.loaded_model import LoadedModel, ModelLoader, ReadModel
from sd_worker.engine.tasks import KnownModel, LoadProgress, MemoryUse, ModelChange, ModelDropped, ModelLoad


@dataclass
class _Load:
    """A model on its way from the disk: read to the CPU, where its size becomes known, and moved to the device once
    there is room."""

    name: str
    read: ReadModel
    begun_at: float
    #: None while it waits for its turn, and once it has been read, for room.
    step: Future[LoadedModel] | None = None
    #: Once it has been read.
    model: LoadedModel | None = None
    progress: LoadProgress | None = None
    #: Memory ran out beside others.
    is_to_be_alone: bool = False
    has_ended: bool = False
    #: Because of which it has ended without the model.
    error: BaseException | None = None


class Models:
    """Loads models, and drops those used least recently.

    Several are fetched side by side (`fetches`); in another thread one at a time is read and moved to the device. Those
    at hand need no fetch, so that no download keeps them waiting.

    The engine thread alone calls it, but for `resident`, `fetching`, `known` and `memory`, which any thread may. A
    model is pinned while samples run on it.
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
        #: Called from another thread when `poll` has something to do, and when there is progress.
        self.on_change: Callable[[], None] = lambda: None
        self._on_model = on_model
        self._loader = loader
        self._fetches = Fetches(loader, lambda: self.on_change())
        #: On the disk, in turn: the first is read, or being moved.
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self._device = device
        self._budget_bytes = default_budget_bytes(device) if budget_bytes is None else budget_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model-loader")
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        #: Also on models that have been dropped: those are in memory until their last sample ends.
        self._num_samples: Counter[LoadedModel] = Counter()
        self._has_garbage = False
        self._resident: tuple[KnownModel, ...] = ()
        self._resident_bytes = 0
        self._is_stopped = False

    @property
    def coming(self) -> dict[str, LoadProgress | None]:
        """The models that are on their way, and how far each is."""
        return {**self._fetches.progress(), **{load.name: load.progress for load in self._loads.values()}}

    def fetching(self) -> tuple[str, ...]:
        """Names of the models that are being brought to the disk."""
        return self._fetches.names

    @property
    def waits_for_room(self) -> bool:
        """Whether a model on its way waits until no sample runs on those that must make room for it."""
        load = self._first_load()
        return load is not None and load.model is not None and load.step is None

    def get(self, name: str) -> LoadedModel | None:
        """The model, if it is resident."""
        return self._models.get(name)

    def poll(self, wanted: Sequence[str]) -> dict[str, BaseException | None]:
        """Take what is on its way further, where it can be, and begin with what is wanted and not resident, the first
        of it first. What nobody wants any more is given up, but for what is being read.

        Returns the models that have become resident, and those that have not with the error because of which.
        """
        if self._has_garbage:
            self._has_garbage = False
            self._free()
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

    def check_device(self) -> None:
        """Raises `DeviceUnavailable` where the device does not do the simplest thing any more, as after CUDA errors."""
        check_device(self._device)

    def pin(self, model: LoadedModel) -> None:
        """A sample runs on the model, which is resident."""
        self._num_samples[model] += 1
        if next(reversed(self._models)) != model.name:
            self._models.move_to_end(model.name)
            self._publish()

    def unpin(self, model: LoadedModel) -> None:
        """It has ended."""
        self._num_samples[model] -= 1
        if not self._num_samples[model]:
            del self._num_samples[model]
            if self._models.get(model.name) is not model:
                self._has_garbage = True

    def drop(self, name: str) -> None:
        """Keep a model no longer: its memory is free when no sample runs on it. Not resident: nothing happens."""
        if self._models.pop(name, None) is None:
            return
        self._publish()
        self._free()
        self._on_model(ModelDropped(name))

    def drop_unused(self, but: str | None = None) -> int:
        """Drop all models that no sample runs on; returns how many."""
        unused = [name for name, model in self._models.items() if model not in self._num_samples and name != but]
        for name in unused:
            self.drop(name)
        self._free()
        return len(unused)

    def resident(self) -> tuple[str, ...]:
        """Names of the resident models, the most recently used last."""
        return tuple(model.name for model in self._resident)

    def known(self) -> tuple[KnownModel, ...]:
        """The resident models, and those that the loader has at hand. Reads files."""
        resident = self._resident
        names = {model.name for model in resident}
        return *resident, *(model for model in self._loader.known() if model.name not in names)

    def memory(self) -> MemoryUse:
        """What the resident models take up."""
        num_models, models_bytes = len(self._resident), self._resident_bytes
        return MemoryUse(num_models, models_bytes, *(gpu_memory_bytes(self._device) or ()))

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
                self._loads[name] = _Load(name, partial(self._loader.load, name), time.perf_counter())
        for fetch in self._fetches.poll([name for name in missing if name not in self._loads]):
            if (error := fetch.result.exception()) is None:
                self._loads[fetch.name] = _Load(fetch.name, fetch.result.result(), fetch.begun_at)
            else:
                failed[fetch.name] = error
                self._on_model(ModelLoad(fetch.name, False, time.perf_counter() - fetch.begun_at))
        return failed

    def _give_up_all_but(self, wanted: Sequence[str]) -> None:
        """Of those that wait, for their turn or for room."""
        unwanted = [load for load in self._loads.values() if load.step is None and load.name not in wanted]
        for load in unwanted:
            del self._loads[load.name]
        if any(load.model is not None for load in unwanted):
            self._free()

    def _take_further(self, load: _Load) -> None:
        if load.step is not None:
            if not load.step.done():
                return
            if (error := load.step.exception()) is not None:
                self._fail(load, error)
                return
            if load.model is not None:
                self._models[load.name] = load.model
                load.has_ended = True
                self._publish()
                return
            load.model, load.step = load.step.result(), None
        model = load.model
        if model is None:
            load.step = self._in_thread(lambda: self._read(load))
        elif self._make_room(model.num_bytes, is_to_be_alone=load.is_to_be_alone):
            load.step = self._in_thread(lambda: _moved(model, self._device))

    def _read(self, load: _Load) -> LoadedModel:
        def on_progress(progress: LoadProgress) -> None:
            if self._is_stopped:
                raise EngineStopped("the load is given up")
            load.progress = progress
            self.on_change()

        return load.read(on_progress)

    def _in_thread(self, step: Callable[[], LoadedModel]) -> Future[LoadedModel]:
        future = self._thread.submit(step)
        future.add_done_callback(lambda _: self.on_change())
        return future

    def _fail(self, load: _Load, error: BaseException) -> None:
        if is_out_of_memory(error) and not load.is_to_be_alone and self._models:
            load.is_to_be_alone = True
            load.model = None
            self.drop_unused()
            load.step = self._in_thread(lambda: self._read(load))
            return
        load.has_ended, load.error = True, error
        self._free()

    def _make_room(self, num_bytes: int, *, is_to_be_alone: bool) -> bool:
        budget_bytes = 0 if is_to_be_alone else self._budget_bytes
        while (in_memory := self._in_memory()) and sum(in_memory) + num_bytes > budget_bytes:
            unused = next((name for name, model in self._models.items() if model not in self._num_samples), None)
            if unused is None:
                return False
            self.drop(unused)
        return True

    def _in_memory(self) -> list[int]:
        """Bytes of each model in memory."""
        return [model.num_bytes for model in {*self._models.values(), *self._num_samples}]

    def _publish(self) -> None:
        # A tuple replaced as a whole: other threads never see a dictionary change under them.
        self._resident = tuple(model.known for model in self._models.values())
        self._resident_bytes = sum(model.num_bytes for model in self._models.values())

    def _free(self) -> None:
        # Modules and pipelines refer to each other in circles, so dropping the last name frees nothing yet.
        gc.collect()
        with suppress(RuntimeError):  # a GPU that has failed refuses this, too
            free_unused_memory(self._device)


def _moved(model: LoadedModel, device: Device) -> LoadedModel:
    model.pipeline.to(device.torch_device)
    return model
