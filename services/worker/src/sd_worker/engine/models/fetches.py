"""Models on their way to the disk, several side by side, so that a slow download keeps no other model waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.models.loaded_model import ModelLoader, ReadModel
from sd_worker.engine.reports import MOST_FETCHES, LoadProgress


class Fetch:
    """One model, in a thread of its own. What it has brought when it is given up is gone on with the next time."""

    def __init__(self, loader: ModelLoader, name: str, on_change: Callable[[], None]) -> None:
        self.name = name
        self.begun_at = time.perf_counter()
        #: Set to False it ends at its next progress, or where that never comes, by the time limits of HTTP.
        self.is_wanted = True
        self.was_given_up = False
        self.progress: LoadProgress | None = None
        self.result: Future[ReadModel] = Future()
        self._loader = loader
        self._on_change = on_change
        # A daemon: the process need not wait for a host that says nothing.
        threading.Thread(target=self._run, name="model-fetch", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result.set_result(self._loader.fetch(self.name, self._on_progress))
        except BaseException as error:
            self.result.set_exception(error)
        self._on_change()

    def _on_progress(self, progress: LoadProgress) -> None:
        if not self.is_wanted:
            self.was_given_up = True
            raise EngineStopped("the fetch is given up")
        self.progress = progress
        self._on_change()


class Fetches:
    """Up to `MOST_FETCHES` at a time. One that was given up keeps no place, and is taken up again if it still runs."""

    def __init__(self, loader: ModelLoader, on_change: Callable[[], None]) -> None:
        """`on_change` is called from other threads."""
        self._loader = loader
        self._on_change = on_change
        self._fetches: dict[str, Fetch] = {}
        #: Of those that are wanted. A tuple replaced as a whole: any thread may read it.
        self.names: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return name in self._fetches

    def progress(self) -> dict[str, LoadProgress | None]:
        """How far each is."""
        return {name: self._fetches[name].progress for name in self.names}

    def poll(self, wanted: Sequence[str]) -> list[Fetch]:
        """Give up all but those that are wanted, and begin these, the first first. Returns what has ended of them."""
        for fetch in self._fetches.values():
            fetch.is_wanted = fetch.name in wanted
        ended = [fetch for fetch in self._fetches.values() if fetch.result.done()]
        for fetch in ended:
            del self._fetches[fetch.name]
        ended = [fetch for fetch in ended if fetch.is_wanted and not fetch.was_given_up]
        num_wanted = sum(fetch.is_wanted for fetch in self._fetches.values())
        missing = [name for name in wanted if name not in self._fetches and name not in {each.name for each in ended}]
        for name in missing[: max(0, MOST_FETCHES - num_wanted)]:
            self._fetches[name] = Fetch(self._loader, name, self._on_change)
        self.names = tuple(fetch.name for fetch in self._fetches.values() if fetch.is_wanted)
        return ended

    def stop(self) -> None:
        """Give up all."""
        self.poll(())
