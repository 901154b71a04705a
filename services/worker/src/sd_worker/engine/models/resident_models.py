"""The models that are resident on the device: who runs on them, and which goes when another needs its memory."""

from __future__ import annotations

import gc
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress

from sd_worker.engine.devices import (
    Device,
    check_device,
    default_budget_bytes,
    free_unused_memory,
    gpu_memory_bytes,
)
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.reports import KnownModel, MemoryUse, ModelChange, ModelDropped


class ResidentModels:
    """Drops those used least recently. A model is pinned while samples run on it.

    The engine thread alone calls it, but for `resident`, `known_resident` and `memory`, which any thread may.
    """

    def __init__(self, device: Device, budget_bytes: int | None, on_model: Callable[[ModelChange], None]) -> None:
        self._on_model = on_model
        self._device = device
        self._budget_bytes = default_budget_bytes(device) if budget_bytes is None else budget_bytes
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        #: Also on models that have been dropped: those are in memory until their last sample ends.
        self._num_samples: Counter[LoadedModel] = Counter()
        self._has_garbage = False
        #: Replaced as a whole: any thread may read it.
        self.known_resident: tuple[KnownModel, ...] = ()
        self._resident_bytes = 0

    def get(self, name: str) -> LoadedModel | None:
        """The model, if it is resident."""
        return self._models.get(name)

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
                self.free_later()

    def drop(self, name: str) -> None:
        """Keep a model no longer: its memory is free when no sample runs on it. Not resident: nothing happens."""
        if self._models.pop(name, None) is None:
            return
        self._publish()
        self.free()
        self._on_model(ModelDropped(name))

    def drop_unused(self, but: str | None = None) -> int:
        """Drop all models that no sample runs on; returns how many."""
        unused = [name for name, model in self._models.items() if model not in self._num_samples and name != but]
        for name in unused:
            self.drop(name)
        self.free()
        return len(unused)

    def resident(self) -> tuple[str, ...]:
        """Names of the resident models, the most recently used last."""
        return tuple(model.name for model in self.known_resident)

    def memory(self) -> MemoryUse:
        """What the resident models take up."""
        num_models, models_bytes = len(self.known_resident), self._resident_bytes
        return MemoryUse(num_models, models_bytes, *(gpu_memory_bytes(self._device) or ()))

    def add(self, model: LoadedModel) -> None:
        """A model has been moved to the device."""
        self._models[model.name] = model
        self._publish()

    def free_later(self) -> None:
        """Something has ended that has memory until its caller is done with it: `free_garbage` is to free that."""
        self._has_garbage = True

    def free_garbage(self) -> None:
        """Free what `free_later` was called for."""
        if self._has_garbage:
            self._has_garbage = False
            self.free()

    def free_memory_for(self, num_bytes: int, *, is_to_be_alone: bool) -> bool:
        """Drop what must go. Returns whether all of it could: samples may run on the rest."""
        budget_bytes = 0 if is_to_be_alone else self._budget_bytes
        while (in_memory := self._in_memory()) and sum(in_memory) + num_bytes > budget_bytes:
            unused = next((name for name, model in self._models.items() if model not in self._num_samples), None)
            if unused is None:
                return False
            self.drop(unused)
        return True

    def free(self) -> None:
        """Give memory back that models had."""
        # Modules and pipelines refer to each other in circles, so dropping the last name frees nothing yet.
        gc.collect()
        with suppress(RuntimeError):  # a GPU that has failed refuses this, too
            free_unused_memory(self._device)

    def _in_memory(self) -> list[int]:
        """Bytes of each model in memory."""
        return [model.num_bytes for model in {*self._models.values(), *self._num_samples}]

    def _publish(self) -> None:
        self.known_resident = tuple(model.known for model in self._models.values())
        self._resident_bytes = sum(model.num_bytes for model in self._models.values())
