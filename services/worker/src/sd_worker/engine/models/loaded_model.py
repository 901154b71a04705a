"""A model as its tasks share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch

from sd_common.parameters import DefaultParameters, TaskKind
from sd_worker.engine.diffusers_api import Config, Pipeline
from sd_worker.engine.diffusers_facts import component_config
from sd_worker.engine.models.kinds import kinds_of_model
from sd_worker.engine.prompt_cache import PromptCache
from sd_worker.engine.reports import KnownModel, LoadProgress
from sd_worker.engine.sharing import Sharing, sharing_of


@dataclass(eq=False)
class LoadedModel:
    """A model's pipeline as it was loaded. Tasks run on views of it (`diffusers_api.view_pipeline`)."""

    name: str
    pipeline: Pipeline
    default_parameters: DefaultParameters
    prompts: PromptCache = field(default_factory=PromptCache)
    #: Pipelines that are never run, but copied for each task: by all that makes them differ (`pipelines`). They are
    #: here, so that they go when the model does.
    views: dict[Hashable, Pipeline] = field(default_factory=dict)
    sharing: Sharing = field(init=False)
    _vae_dtype: torch.dtype | None = field(init=False)

    def __post_init__(self) -> None:
        self.sharing = sharing_of(self.pipeline)
        self._vae_dtype = getattr(self.pipeline.components.get("vae"), "dtype", None)

    def restore(self) -> None:
        """Undo what a pipeline that has raised may have left half done: some cast their VAE to float32 and back."""
        vae = self.pipeline.components.get("vae")
        if isinstance(vae, torch.nn.Module) and self.config_of("vae").get("force_upcast"):
            vae.to(self._vae_dtype)

    def has_tiles_for(self, size_px: tuple[int, int]) -> bool:
        """Whether `tiled_decoding` would make a difference to a picture of this width and height."""
        vae = self.pipeline.components.get("vae")
        tile_px: float = getattr(vae, "tile_sample_min_size", math.inf)  # of diffusers, untyped
        return getattr(vae, "use_tiling", None) is False and max(size_px) > tile_px

    @contextmanager
    def tiled_decoding(self) -> Iterator[None]:
        """Have the VAE take large pictures in tiles while inside: it needs less memory, and may show seams. For a task
        that has the model for itself, and where `has_tiles_for` it."""
        vae = self.pipeline.components["vae"]
        setattr(vae, "use_tiling", True)  # noqa: B010  # of diffusers, untyped
        try:
            yield
        finally:
            setattr(vae, "use_tiling", False)  # noqa: B010

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        modules = [part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        # By identity: SDXL variants share a text encoder between two components.
        tensors = {id(t): t for module in modules for t in [*module.parameters(), *module.buffers()]}
        return sum(tensor.nbytes for tensor in tensors.values())

    @cached_property
    def kinds(self) -> tuple[TaskKind, ...]:
        """What it can do; maybe nothing."""
        return kinds_of_model(type(self.pipeline).__name__, self.pipeline.config, self.config_of)

    @property
    def known(self) -> KnownModel:
        """What is told of it while it is resident."""
        return KnownModel(
            self.name,
            self.kinds,
            self.default_parameters,
            is_resident=True,
            runs_alone=not self.sharing.shares_denoising,
        )

    def config_of(self, component: str) -> Config:
        """The configuration of a component, empty where there is no such component."""
        return component_config(self.pipeline, component)


#: Told how far a model is. What it raises ends a download.
OnLoadProgress = Callable[[LoadProgress], None]
#: Reads a model that is on the disk: to the CPU.
ReadModel = Callable[[OnLoadProgress], LoadedModel]


class ModelLoader(Protocol):
    """Where models come from. `fetch` is called by several threads at a time, what it returns by one."""

    def is_at_hand(self, name: str) -> bool:
        """Whether the model is loaded, or refused, without any other machine. Returns at once."""

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        """Bring all to the disk that the model needs. Raises `ModelUnavailable`, and what `on_progress` raises."""

    def known(self) -> Sequence[KnownModel]:
        """The models that are at hand, without loading them."""
