"""The models that are resident on the device, and the one that is on its way there."""

from __future__ import annotations

import gc
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from sd_worker.engine.devices import (
    Device,
    check_device,
    default_budget_bytes,
    free_unused_memory,
    gpu_memory_bytes,
    is_out_of_memory,
)
from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.loaded_model import LoadedModel, ModelLoader
from sd_worker.engine.tasks import KnownModel, LoadProgress, MemoryUse, ModelChange, ModelDropped, ModelLoad


@dataclass
class _Load:
    """A model on its way: read to the CPU, where its size becomes known, and moved to the device once there is room."""

    name: str
    #: None while it waits for room.
    step: Future[LoadedModel] | None
    #: Once it has been read.
    model: LoadedModel | None = None
    progress: LoadProgress | None = None
    #: Memory ran out beside others.
    is_to_be_alone: bool = False
    begun_at: float = field(default_factory=time.perf_counter)

    def ended(self, *, has_come: bool) -> ModelLoad:
        """What is told of its end."""
        return ModelLoad(self.name, has_come, time.perf_counter() - self.begun_at)


class Models:
    """Loads models in a thread of its own, one at a time, and drops those used least recently.

    The engine thread alone calls it, but for `resident`, `known` and `memory`, which any thread may. A model is pinned
    while samples run on it.
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
        self._on_model = on_model
        self._loader = loader
        self._device = device
        self._budget_bytes = default_budget_bytes(device) if budget_bytes is None else budget_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model-loader")
        self._load: _Load | None = None
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        #: Also on models that have been dropped: those are in memory until their last sample ends.
        self._num_samples: Counter[LoadedModel] = Counter()
        self._has_garbage = False
        self._resident: tuple[KnownModel, ...] = ()
        self._resident_bytes = 0
        self._is_stopped = False

    @property
    def loading(self) -> str | None:
        """The model that is on its way."""
        return None if self._load is None else self._load.name

    @property
    def load_progress(self) -> LoadProgress | None:
        """How far it is."""
        return None if self._load is None else self._load.progress

    @property
    def waits_for_room(self) -> bool:
        """Whether the model on its way waits until no sample runs on those that must make room for it."""
        return self._load is not None and self._load.step is None

    def get(self, name: str) -> LoadedModel | None:
        """The model, if it is resident."""
        return self._models.get(name)

    def load(self, name: str, on_change: Callable[[], None]) -> None:
        """Begin to load a model. `on_change` is called from another thread when `poll` has something to do, and when
        there is progress."""
        self._on_change = on_change
        load = self._load = _Load(name, step=None)
        load.step = self._in_thread(lambda: self._read(load))

    def poll(self) -> tuple[str, BaseException | None] | None:
        """Take the load further, where it can be. Returns the name of a model that has become resident, or that and the
        error because of which it has not."""
        if self._has_garbage:
            self._has_garbage = False
            self._free()
        load = self._load
        if load is None:
            return None
        if load.step is not None:
            if not load.step.done():
                return None
            if (error := load.step.exception()) is not None:
                return self._failed(load, error)
            if load.model is not None:
                return self._has_come(load, load.model)
            load.model, load.step = load.step.result(), None
        model = load.model
        if model is not None and self._make_room(model.num_bytes, is_to_be_alone=load.is_to_be_alone):
            load.step = self._in_thread(lambda: _moved(model, self._device))
        return None

    def abandon_load(self) -> None:
        """Give up the load that waits for room: nobody wants the model any more."""
        self._load = None
        self._free()

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
        """Load nothing more. The load that is under way is given up: it ends at its next progress. Idempotent."""
        self._is_stopped = True
        self._load = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, load: _Load) -> LoadedModel:
        def on_progress(progress: LoadProgress) -> None:
            if self._is_stopped:
                raise EngineStopped("the load is given up")
            load.progress = progress
            self._on_change()

        return self._loader.load(load.name, on_progress)

    def _in_thread(self, step: Callable[[], LoadedModel]) -> Future[LoadedModel]:
        future = self._thread.submit(step)
        future.add_done_callback(lambda _: self._on_change())
        return future

    def _has_come(self, load: _Load, model: LoadedModel) -> tuple[str, None]:
        self._models[load.name] = model
        self._load = None
        self._publish()
        self._on_model(load.ended(has_come=True))
        return load.name, None

    def _failed(self, load: _Load, error: BaseException) -> tuple[str, BaseException | None] | None:
        if is_out_of_memory(error) and not load.is_to_be_alone and self._models:
            load.is_to_be_alone = True
            load.model = None
            self.drop_unused()
            load.step = self._in_thread(lambda: self._read(load))
            return None
        self._load = None
        self._free()
        self._on_model(load.ended(has_come=False))
        return load.name, error

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
