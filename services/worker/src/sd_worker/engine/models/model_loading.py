"""Models from a directory or from the hub."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sd_common.parameters import DefaultParameters
from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.diffusers_api import load_pipeline, silence_libraries
from sd_worker.engine.diffusers_facts import trained_size_px
from sd_worker.engine.errors import ModelUnavailable
from sd_worker.engine.models.default_parameters import read_default_parameters, with_trained_size
from sd_worker.engine.models.hub_download import HubModel, download, find_on_hub
from sd_worker.engine.models.kinds import kinds_of_model
from sd_worker.engine.models.loaded_model import LoadedModel, OnLoadProgress, ReadModel
from sd_worker.engine.models.model_directory import INDEX_FILE, LocalModel, ModelDirectory, read_json, sizes_below
from sd_worker.engine.models.model_errors import explain, needs_code
from sd_worker.engine.models.model_files import needed_files
from sd_worker.engine.models.tuning import Tuning, tune
from sd_worker.engine.reports import KnownModel, LoadProgress

_log = logging.getLogger(__name__)

_UNTUNED = Tuning()


@dataclass(frozen=True)
class _Fetched:
    """A model that is on the disk, and what is known of it. `num_bytes` are those of its files."""

    name: str
    found: LocalModel | HubModel
    variant: str | None
    num_bytes: int
    defaults: DefaultParameters


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

    def is_at_hand(self, name: str) -> bool:
        """Whether the model lies below `model_dir`, or is refused because it does not. What the hub's cache has is not
        at hand: the hub is asked first what is there now."""
        try:
            return self._directory.find(name) is not None
        except (ModelUnavailable, OSError):  # `fetch` tells which
            return True

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        """Download what the model needs and is not there; returns what reads it to the CPU.

        `on_progress` is told at the start, about four times a second, and at the end; of nothing where all is there.
        Raises `ModelUnavailable` with a sentence for the client, and what `on_progress` raises: that ends a download.
        What is returned tells its `on_progress` the start and the end, and raises the same; and for lack of memory.
        """
        silence_libraries()
        with _explained(name, on_progress) as relay:
            found = self._directory.find(name) or find_on_hub(name, self._token)
            index = read_json(found.directory / INDEX_FILE)
            self._checked_class_name(name, index)
            defaults = read_default_parameters(name, found.directory)
            sizes = found.sizes if isinstance(found, HubModel) else sizes_below(found.directory)
            files = needed_files(name, index, sizes, prefer_fp16=self._dtype is torch.float16)
            if isinstance(found, HubModel):
                download(found, files.paths, self._token, relay)
        num_bytes = sum(sizes[path] for path in files.paths)
        return partial(self._read, _Fetched(name, found, files.variant, num_bytes, defaults))

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
        index = read_json(local.directory / INDEX_FILE)
        kinds = kinds_of_model(self._checked_class_name(local.name, index), index, local.config_of)
        defaults = read_default_parameters(local.name, local.directory)
        return KnownModel(local.name, kinds, defaults, is_resident=False)

    def _read(self, fetched: _Fetched, on_progress: OnLoadProgress) -> LoadedModel:
        started = time.perf_counter()
        name, found = fetched.name, fetched.found
        with _explained(name, on_progress) as relay:
            relay(LoadProgress("loading", 0, fetched.num_bytes))
            pipeline = load_pipeline(found.directory, dtype=self._dtype, variant=fetched.variant)
            # Again, with what was loaded: an index may name what its pipeline's class does not take.
            self._check_safety_checker(name, pipeline.components.get("safety_checker") is not None)
            tune(pipeline, self._tuning)
            relay(LoadProgress("loading", fetched.num_bytes, fetched.num_bytes))
            model = LoadedModel(name, pipeline, with_trained_size(fetched.defaults, trained_size_px(pipeline)))
        facts = {"model": name, "loading_s": round(time.perf_counter() - started, 3)}
        _log.info("model loaded", extra=facts | ({"commit": found.commit} if isinstance(found, HubModel) else {}))
        return model

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


@contextmanager
def _explained(name: str, on_progress: OnLoadProgress) -> Iterator[_Relay]:
    """What is raised inside is told in a sentence for the client, but for what `on_progress` raises."""
    relay = _Relay(on_progress)
    try:
        yield relay
    except ModelUnavailable:
        raise
    except Exception as error:  # the libraries below raise of every kind
        if error is relay.raised or is_out_of_memory(error):
            raise
        raise ModelUnavailable(explain(name, error)) from error


class _Relay:
    """Hands progress on, and remembers what the other side raised: that is no fault of the model's."""

    def __init__(self, on_progress: OnLoadProgress) -> None:
        self._on_progress = on_progress
        self.raised: Exception | None = None

    def __call__(self, progress: LoadProgress) -> None:
        try:
            self._on_progress(progress)
        except Exception as error:
            self.raised = error
            raise
