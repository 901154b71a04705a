"""The models that are resident on the device."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sd_common.parameters import DefaultParameters
from sd_worker.engine.devices import Device, default_budget_bytes, free_unused_memory
from sd_worker.engine.diffusers_api import Config, Pipeline, component_config
from sd_worker.engine.kinds import kinds_of_model
from sd_worker.engine.tasks import KnownModel, LoadProgress, ignore_progress


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model's pipeline as it was loaded. Tasks run on views of it (`diffusers_api.view_pipeline`)."""

    name: str
    pipeline: Pipeline
    default_parameters: DefaultParameters

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        modules = [part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        # By identity: SDXL variants share a text encoder between two components.
        tensors = {id(t): t for module in modules for t in [*module.parameters(), *module.buffers()]}
        return sum(tensor.nbytes for tensor in tensors.values())

    @property
    def known(self) -> KnownModel:
        """What is told of it while it is resident."""
        kinds = kinds_of_model(type(self.pipeline).__name__, self.config_of)
        return KnownModel(self.name, kinds, self.default_parameters, is_resident=True)

    def config_of(self, component: str) -> Config:
        """The configuration of a component, empty where there is no such component."""
        return component_config(self.pipeline, component)


class ModelLoader(Protocol):
    """Where models come from."""

    def load(self, name: str, on_progress: Callable[[LoadProgress], None] = ignore_progress) -> LoadedModel:
        """The model, on the CPU. Raises `ModelUnavailable`, and what `on_progress` raises."""

    def known(self) -> Sequence[KnownModel]:
        """The models that are at hand, without loading them."""


class ModelCache:
    """Keeps models on the device, within a budget; drops those least recently used.

    Only the engine thread calls it, but for `resident` and `known`, which any thread may.
    """

    def __init__(self, loader: ModelLoader, device: Device, budget_bytes: int | None = None) -> None:
        """`budget_bytes` None: what `default_budget_bytes` says. A model beyond the budget is loaded alone."""
        self._loader = loader
        self._device = device
        self._budget_bytes = default_budget_bytes(device) if budget_bytes is None else budget_bytes
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._num_bytes: dict[str, int] = {}
        self._resident: tuple[KnownModel, ...] = ()

    def get(self, name: str) -> LoadedModel:
        """The model on the device, loaded if it is not resident. Raises `ModelUnavailable`, or when memory runs out."""
        if name in self._models:
            self._models.move_to_end(name)
            self._publish()
            return self._models[name]
        # Loaded to the CPU first: only then is its size known, and room made for it on the device.
        model = self._loader.load(name)
        num_bytes = model.num_bytes
        while self._models and sum(self._num_bytes.values()) + num_bytes > self._budget_bytes:
            self.drop(next(iter(self._models)))
        model.pipeline.to(self._device.torch_device)
        self._models[name] = model
        self._num_bytes[name] = num_bytes
        self._publish()
        return model

    def drop(self, name: str) -> None:
        """Free a model's memory, provided that the caller holds it no more. Not resident: nothing happens."""
        if self._models.pop(name, None) is None:
            return
        del self._num_bytes[name]
        self._publish()
        self._free()

    def clear(self) -> None:
        """Free all models."""
        for name in tuple(self._models):
            self.drop(name)
        self._free()

    def resident(self) -> tuple[str, ...]:
        """Names of the resident models, the most recently used last."""
        return tuple(model.name for model in self._resident)

    def known(self) -> tuple[KnownModel, ...]:
        """The resident models, and those that the loader has at hand. Reads files."""
        resident = self._resident
        names = {model.name for model in resident}
        return *resident, *(model for model in self._loader.known() if model.name not in names)

    def _publish(self) -> None:
        # A tuple replaced as a whole: other threads never see a dictionary change under them.
        self._resident = tuple(model.known for model in self._models.values())

    def _free(self) -> None:
        # Modules and pipelines refer to each other in circles, so dropping the last name frees nothing yet.
        gc.collect()
        free_unused_memory(self._device)
