"""The models of an engine: those that are resident, and those that are on their way to the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from sd_worker.engine.devices import Device
from sd_worker.engine.models.fetches import Fetches
from sd_worker.engine.models.loaded_model import LoadedModel, ModelLoader, OnLoadProgress
from sd_worker.engine.models.reads import Reads
from sd_worker.engine.models.resident_models import ResidentModels
from sd_worker.engine.reports import KnownModel, LoadProgress, ModelChange, ModelLoad


class Models(ResidentModels):
    """Loads models, and drops those used least recently where they need memory.

    Several are fetched side by side (`fetches`); in another thread one at a time is read and moved to the device
    (`reads`). Those at hand need no fetch, so that no download keeps them waiting.

    The engine thread alone calls it, but for `resident`, `known_resident`, `fetching`, `known` and `memory`, which any
    thread may.
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
        super().__init__(device, budget_bytes, on_model)
        self._on_change: Callable[[], None] = lambda: None
        self._loader = loader
        self._fetches = Fetches(loader, lambda: self._on_change())
        self._reads = Reads(self, device, lambda: self._on_change())
        self._is_stopped = False

    def on_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `poll` has something to do, and when there is progress: from other threads."""
        self._on_change = callback

    @property
    def coming(self) -> dict[str, LoadProgress | None]:
        """The models that are on their way, and how far each is."""
        return {**self._fetches.progress(), **self._reads.progress()}

    def fetching(self) -> tuple[str, ...]:
        """Names of the models that are being brought to the disk."""
        return self._fetches.names

    @property
    def waits_for_memory(self) -> bool:
        """Whether a model on its way waits until no sample runs on those that must go for it."""
        return self._reads.waits_for_memory

    def poll(self, wanted: Sequence[str]) -> dict[str, BaseException | None]:
        """Take what is on its way further, where it can be, and begin with what is wanted and not resident, the first
        of it first. What nobody wants any more is given up, but for what is being read.

        Returns the models that have become resident, and those that have not with the error because of which.
        """
        self.free_garbage()
        if self._is_stopped:
            return {}
        ended = self._fetch([name for name in wanted if self.get(name) is None and name not in self._reads])
        for coming in self._reads.poll(wanted):
            ended[coming.name] = coming.error
            self._tell_of_load(coming.name, coming.error is None, coming.begun_at)
        return ended

    def known(self) -> tuple[KnownModel, ...]:
        """The resident models, and those that the loader has at hand. Reads files."""
        resident = self.known_resident
        names = {model.name for model in resident}
        return *resident, *(model for model in self._loader.known() if model.name not in names)

    def stop(self) -> None:
        """Load nothing more. What is under way is given up: it ends at its next progress. Idempotent."""
        self._is_stopped = True
        self._fetches.stop()
        self._reads.stop()

    def _fetch(self, missing: Sequence[str]) -> dict[str, BaseException | None]:
        """Have read what is at hand, and the rest fetched. Returns what could not be, and why."""
        failed: dict[str, BaseException | None] = {}
        for name in missing:
            if name not in self._fetches and self._loader.is_at_hand(name):
                self._reads.add(name, partial(_fetch_and_read, self._loader, name), time.perf_counter())
        for fetch in self._fetches.poll([name for name in missing if name not in self._reads]):
            if (error := fetch.result.exception()) is None:
                self._reads.add(fetch.name, fetch.result.result(), fetch.begun_at)
            else:
                failed[fetch.name] = error
                self._tell_of_load(fetch.name, False, fetch.begun_at)
        return failed

    def _tell_of_load(self, name: str, has_come: bool, begun_at: float) -> None:
        self._on_model(ModelLoad(name, has_come, time.perf_counter() - begun_at))


def _fetch_and_read(loader: ModelLoader, name: str, on_progress: OnLoadProgress) -> LoadedModel:
    """A model at hand, of which nothing is downloaded."""
    return loader.fetch(name, on_progress)(on_progress)
