"""Models from a directory or from the hub."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sd_worker.engine.default_parameters import DEFAULTS_FILE, read_default_parameters, with_trained_size
from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.diffusers_api import load_pipeline, silence_libraries, trained_size_px
from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.hub_download import HubModel, download, find_on_hub
from sd_worker.engine.kinds import kinds_of_model
from sd_worker.engine.loaded_model import LoadedModel
from sd_worker.engine.model_directory import INDEX_FILE, LocalModel, ModelDirectory, read_json, sizes_below
from sd_worker.engine.model_errors import explain, needs_code
from sd_worker.engine.model_files import needed_files
from sd_worker.engine.tasks import KnownModel, LoadProgress, ignore_progress
from sd_worker.engine.tuning import Tuning, tune

_log = logging.getLogger(__name__)

_UNTUNED = Tuning()


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
        tuning: Tuning = _UNTUNED,
    ) -> None:
        self._directory = ModelDirectory(model_dir)
        self._dtype = dtype
        self._token = token
        self._require_safety_checker = require_safety_checker
        self._tuning = tuning

    def load(self, name: str, on_progress: Callable[[LoadProgress], None] = ignore_progress) -> LoadedModel:
        """The model, on the CPU.

        `on_progress` is told of the download, if there is one, and of the load, at the start and the end of each and
        about four times a second. Raises `ModelUnavailable` with a sentence for the client, what `on_progress` raises,
        which ends a download, and when memory runs out.
        """
        silence_libraries()
        started = time.perf_counter()
        relay = _Relay(on_progress)
        try:
            found = self._directory.find(name) or find_on_hub(name, self._token)
            model = self._load(name, found, relay)
        except ModelUnavailable:
            raise
        except Exception as error:  # the libraries below raise of every kind
            if error is relay.raised or is_out_of_memory(error):
                raise
            raise ModelUnavailable(explain(name, error)) from error
        facts = {"model": name, "loading_s": round(time.perf_counter() - started, 3)}
        _log.info("model loaded", extra=facts | ({"commit": found.commit} if isinstance(found, HubModel) else {}))
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
        defaults = read_default_parameters(local.name, _defaults_file(local.directory))
        return KnownModel(local.name, kinds_of_model(class_name, local.config_of), defaults, is_resident=False)

    def _load(
        self, name: str, found: LocalModel | HubModel, on_progress: Callable[[LoadProgress], None]
    ) -> LoadedModel:
        index = read_json(found.directory / INDEX_FILE)
        self._checked_class_name(name, index)
        defaults = read_default_parameters(name, _defaults_file(found.directory))
        sizes = found.sizes if isinstance(found, HubModel) else sizes_below(found.directory)
        files = needed_files(name, index, sizes, prefer_fp16=self._dtype is torch.float16)
        if isinstance(found, HubModel):
            download(found, files.paths, self._token, on_progress)
        num_bytes = sum(sizes[path] for path in files.paths)
        on_progress(LoadProgress("loading", 0, num_bytes))
        pipeline = load_pipeline(found.directory, dtype=self._dtype, variant=files.variant)
        # Again, with what was loaded: an index may name what its pipeline's class does not take.
        self._check_safety_checker(name, pipeline.components.get("safety_checker") is not None)
        tune(pipeline, self._tuning)
        on_progress(LoadProgress("loading", num_bytes, num_bytes))
        return LoadedModel(name, pipeline, with_trained_size(defaults, trained_size_px(pipeline)))

    def _checked_class_name(self, name: str, index: dict[str, object]) -> str:
        """The class of the pipeline that `index` describes. Raises `ModelUnavailable` for a model that is not loaded
        here, before its weights are."""
        class_name = index["_class_name"]
        # A list in place of it names a pipeline of diffusers' community, which it fetches and runs unasked.
        if not isinstance(class_name, str):
            raise ModelUnavailable(needs_code(name))
        self._check_safety_checker(name, index.get("safety_checker") not in (None, [None, None]))
        return class_name

    def _check_safety_checker(self, name: str, has_one: bool) -> None:
        if self._require_safety_checker and not has_one:
            raise ModelUnavailable(
                f"Model '{name}' has no safety checker, without which this service makes no pictures: choose a model "
                "that has one, or have the operator set SAFETY_FILTER=optional"
            )


class _Relay:
    """Hands progress on, and remembers what the other side raised: that is no fault of the model's."""

    def __init__(self, on_progress: Callable[[LoadProgress], None]) -> None:
        self._on_progress = on_progress
        self.raised: Exception | None = None

    def __call__(self, progress: LoadProgress) -> None:
        try:
            self._on_progress(progress)
        except Exception as error:
            self.raised = error
            raise


def _defaults_file(directory: Path) -> Path | None:
    file = directory / DEFAULTS_FILE
    return file if file.is_file() else None
