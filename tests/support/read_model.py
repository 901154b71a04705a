"""Models without an engine."""

from __future__ import annotations

from sd_worker.engine.models.loaded_model import LoadedModel, ModelLoader, OnLoadProgress


def read_model(loader: ModelLoader, name: str, on_progress: OnLoadProgress = lambda progress: None) -> LoadedModel:
    """A model on the CPU: fetched, where it is not at hand, and read."""
    return loader.fetch(name, on_progress)(on_progress)
