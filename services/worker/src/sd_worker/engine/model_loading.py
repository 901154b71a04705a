"""Models from a directory or from the hub."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from sd_worker.engine.default_parameters import DEFAULTS_FILE, read_default_parameters, with_trained_size
from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.diffusers_api import load_pipeline, silence_libraries, trained_size_px
from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.kinds import kinds_of_model
from sd_worker.engine.model_directory import INDEX_FILE, LocalModel, ModelDirectory, read_json
from sd_worker.engine.model_errors import explain
from sd_worker.engine.models import LoadedModel
from sd_worker.engine.tasks import KnownModel

_log = logging.getLogger(__name__)


class ModelSource:
    """Finds a model by its name: below `model_dir`, or else on the hub, from where it is downloaded with `token`.

    Nothing but safetensors weights in diffusers' layout is loaded; where a safety checker is required, nothing that has
    none.
    """

    def __init__(
        self,
        model_dir: Path | None,
        *,
        dtype: torch.dtype,
        token: str | None = None,
        require_safety_checker: bool = False,
    ) -> None:
        self._directory = ModelDirectory(model_dir)
        self._dtype = dtype
        self._token = token
        self._require_safety_checker = require_safety_checker

    def load(self, name: str) -> LoadedModel:
        """The model, on the CPU. Raises `ModelUnavailable` with a sentence for the client, and when memory runs out."""
        silence_libraries()
        local = self._directory.find(name)
        started = time.perf_counter()
        try:
            model = self._load(name, local)
        except ModelUnavailable:
            raise
        except Exception as error:  # the libraries below raise of every kind
            if is_out_of_memory(error):
                raise
            raise ModelUnavailable(explain(name, error)) from error
        _log.info("model loaded", extra={"model": name, "loading_s": round(time.perf_counter() - started, 3)})
        return model

    def known(self) -> list[KnownModel]:
        """The models below `model_dir`, but for those that would be refused, whose reason is told when one is asked
        for."""
        known = []
        for name in self._directory.names():
            try:
                local = self._directory.find(name)
                if local is not None:
                    known.append(self._describe(local))
            except (ModelUnavailable, OSError, LookupError, ValueError):
                continue
        return known

    def _describe(self, local: LocalModel) -> KnownModel:
        class_name = self._checked_class_name(local.name, read_json(local.directory / INDEX_FILE))
        defaults = read_default_parameters(local.name, self._defaults_file(local.name, local))
        return KnownModel(local.name, kinds_of_model(class_name, local.config_of), defaults, is_resident=False)

    def _load(self, name: str, local: LocalModel | None) -> LoadedModel:
        index_file = local.directory / INDEX_FILE if local else hf_hub_download(name, INDEX_FILE, token=self._token)
        self._checked_class_name(name, read_json(Path(index_file)))
        defaults = read_default_parameters(name, self._defaults_file(name, local))
        pipeline = load_pipeline(
            str(local.directory) if local else name,
            dtype=self._dtype,
            token=self._token,
            # diffusers takes a path that is missing for a repository: it must not ask the hub for a directory.
            local_files_only=local is not None,
        )
        # Again, with what was loaded: an index may name what its pipeline's class does not take.
        self._check_safety_checker(name, pipeline.components.get("safety_checker") is not None)
        return LoadedModel(name, pipeline, with_trained_size(defaults, trained_size_px(pipeline)))

    def _checked_class_name(self, name: str, index: dict[str, object]) -> str:
        """The class of the pipeline that `index` describes. Raises `ModelUnavailable` for a model that is not loaded
        here, before its weights are."""
        class_name = index["_class_name"]
        # A list in place of it names a pipeline of diffusers' community, which it fetches and runs unasked.
        if not isinstance(class_name, str):
            raise ModelUnavailable(f"Model '{name}' needs code of its own, which is never run: choose another model")
        self._check_safety_checker(name, index.get("safety_checker") not in (None, [None, None]))
        return class_name

    def _check_safety_checker(self, name: str, has_one: bool) -> None:
        if self._require_safety_checker and not has_one:
            raise ModelUnavailable(
                f"Model '{name}' has no safety checker, without which this service makes no pictures: choose a model "
                "that has one, or have the operator set SAFETY_FILTER=optional"
            )

    def _defaults_file(self, name: str, local: LocalModel | None) -> Path | None:
        if local is not None:
            file = local.directory / DEFAULTS_FILE
            return file if file.is_file() else None
        try:
            return Path(hf_hub_download(name, DEFAULTS_FILE, token=self._token))
        except EntryNotFoundError:  # also where the hub cannot be asked and the file has not been downloaded before
            return None
