"""The models that are resident on the device."""

from __future__ import annotations

import gc
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import torch

from sd_worker.engine.devices import Device, default_budget_bytes, free_unused_memory
from sd_worker.engine.diffusers_api import Pipeline, component_config


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model's pipeline as it was loaded. Tasks run on views of it (`diffusers_api.view_pipeline`)."""

    name: str
    pipeline: Pipeline

    @property
    def num_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        modules = [part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        # By identity: SDXL variants share a text encoder between two components.
        tensors = {id(t): t for module in modules for t in [*module.parameters(), *module.buffers()]}
        return sum(tensor.nbytes for tensor in tensors.values())

    @property
    def in_channels(self) -> int | None:
        """Channels of the UNet's input: 4 for latents, 9 with a mask and a masked image. None without a UNet."""
        channels = component_config(self.pipeline, "unet").get("in_channels")
        return channels if isinstance(channels, int) else None

    @property
    def latent_channels(self) -> int | None:
        """Channels of the VAE's latents."""
        channels = component_config(self.pipeline, "vae").get("latent_channels")
        return channels if isinstance(channels, int) else None


class ModelLoader(Protocol):
    """Where models come from."""

    def load(self, name: str) -> LoadedModel:
        """The model, on the CPU. Raises `ModelUnavailable`."""


class ModelCache:
    """Keeps models on the device, within a budget; drops those least recently used.

    Only the engine thread calls it, but for `resident`, which any thread may.
    """

    def __init__(self, loader: ModelLoader, device: Device, budget_bytes: int | None = None) -> None:
        """`budget_bytes` None: what `default_budget_bytes` says. A model beyond the budget is loaded alone."""
        self._loader = loader
        self._device = device
        self._budget_bytes = default_budget_bytes(device) if budget_bytes is None else budget_bytes
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._num_bytes: dict[str, int] = {}
        self._resident: tuple[str, ...] = ()

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
        return self._resident

    def _publish(self) -> None:
        # A tuple replaced as a whole: other threads never see a dictionary change under them.
        self._resident = tuple(self._models)

    def _free(self) -> None:
        # Modules and pipelines refer to each other in circles, so dropping the last name frees nothing yet.
        gc.collect()
        free_unused_memory(self._device)
