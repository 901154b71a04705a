"""Models from a directory or from the hub."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download

from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.diffusers_api import load_pipeline, silence_libraries
from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.model_errors import explain
from sd_worker.engine.models import LoadedModel

_log = logging.getLogger(__name__)

_INDEX = "model_index.json"


class ModelSource:
    """Finds a model by its name: below `model_dir`, or on the hub.

    `name` is a directory of `model_dir`; `owner/name` is `model_dir/owner/name` where that exists, else a hub
    repository, which is downloaded with `token`. Nothing but safetensors weights in diffusers' layout is loaded.
    """

    def __init__(self, model_dir: Path | None, *, dtype: torch.dtype, token: str | None = None) -> None:
        self._root = None if model_dir is None else model_dir.resolve()
        self._dtype = dtype
        self._token = token

    def load(self, name: str) -> LoadedModel:
        """The model, on the CPU. Raises `ModelUnavailable` with a sentence for the client, and when memory runs out."""
        silence_libraries()
        directory = self._directory_of(name)
        started = time.perf_counter()
        try:
            model = self._load(name, directory)
        except ModelUnavailable:
            raise
        except Exception as error:  # the libraries below raise of every kind
            if is_out_of_memory(error):
                raise
            raise ModelUnavailable(explain(name, error)) from error
        _log.info("model loaded", extra={"model": name, "loading_s": round(time.perf_counter() - started, 3)})
        return model

    def _load(self, name: str, directory: Path | None) -> LoadedModel:
        self._check_that_no_code_is_run(name, directory)
        # diffusers takes a path that is missing for a repository: it must not ask the hub for a directory.
        is_local = directory is not None
        source = name if directory is None else str(directory)
        pipeline = load_pipeline(source, dtype=self._dtype, token=self._token, local_files_only=is_local)
        return LoadedModel(name, pipeline)

    def _check_that_no_code_is_run(self, name: str, directory: Path | None) -> None:
        """A list in place of the class names a pipeline of diffusers' community, which it fetches and runs unasked."""
        index_file = hf_hub_download(name, _INDEX, token=self._token) if directory is None else directory / _INDEX
        index = json.loads(Path(index_file).read_text(encoding="utf-8"))
        if not isinstance(index["_class_name"], str):
            raise ModelUnavailable(f"Model '{name}' needs code of its own, which is never run: choose another model")

    def _directory_of(self, name: str) -> Path | None:
        """Where the model lies; None: on the hub."""
        is_repository_id = "/" in name
        directory = None if self._root is None else self._root / name
        if directory is None or not directory.is_dir():
            if is_repository_id:
                return None
            raise ModelUnavailable(
                f"Model '{name}' is not a directory below MODEL_DIR: check the name, "
                "or name a repository on the hub as 'owner/name'"
            )
        # After symbolic links: a name must not lead to files that the operator did not put there.
        resolved = directory.resolve()
        if self._root not in resolved.parents:
            raise ModelUnavailable(f"Model '{name}' leads out of MODEL_DIR: it must lie in it, not be linked into it")
        if not (resolved / _INDEX).is_file():
            raise ModelUnavailable(
                f"Model '{name}' has no {_INDEX} in its directory below MODEL_DIR: "
                "it must be in the layout of diffusers"
            )
        return resolved
