"""Samples from their start until their pipelines end: each is parked at a network, or at a helper thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.errors import TaskCancelled
from sd_worker.engine.groups import Groups
from sd_worker.engine.helper_threads import HelperThreads
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.models.loads import Models
from sd_worker.engine.passes import Passes
from sd_worker.engine.rendezvous import Returned
from sd_worker.engine.rooms import Room, Rooms
from sd_worker.engine.samples import Sample
from sd_worker.engine.sharing import ThreadCall
from sd_worker.engine.tasks import Progress
from sd_worker.engine.waiting_tasks import Waiting


class RunningSamples:
    """Holds their models and their rooms for as long as they run."""

    def __init__(
        self,
        models: Models,
        rooms: Rooms,
        passes: Passes,
        helper_threads: HelperThreads,
        *,
        on_progress: Callable[[Progress], None],
        on_preview: Callable[[str, torch.Tensor], None] | None,
        on_end: Callable[[Sample], None],
    ) -> None:
        """`on_end` is called with each whose pipeline has ended, when what it held is free."""
        self._models = models
        self._rooms = rooms
        self._passes = passes
        self._helper_threads = helper_threads
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._on_end = on_end
        self._samples: dict[str, Sample] = {}
        self._groups = Groups()

    def __iter__(self) -> Iterator[str]:
        """The ids of their tasks, in the order in which they began."""
        return iter(tuple(self._samples))

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def include_a_retry(self) -> bool:
        """Whether one of them is tried again."""
        return any(sample.waiting.is_retry for sample in self._samples.values())

    @property
    def need_a_pass(self) -> bool:
        """Whether one of them waits for a network."""
        return bool(self._groups)

    def start(self, waiting: Waiting, model: LoadedModel, room: Room) -> None:
        """Begin with a task for which there is room."""
        sample = Sample(waiting, model, room, self._at_step)
        self._samples[waiting.task.task_id] = sample
        self._models.pin(model)
        self._rooms.enter(sample, room)
        self._on_progress(sample.progress())
        sample.rendezvous.start()
        self._follow(sample)

    def make_a_pass(self) -> None:
        """One for those whose turn it is, which go on with their results."""
        for sample, returned in self._passes.make(self._groups):
            self.go_on(sample, returned)

    def go_on(self, sample: Sample, returned: Returned) -> None:
        """What a sample waits for has been done, by a pass or by a helper thread."""
        if sample.is_cancelled:
            returned = Returned(error=TaskCancelled(sample.task.task_id))
        sample.rendezvous.resume(returned)
        self._follow(sample)

    def cancel(self, task_id: str) -> None:
        """End one where it is parked; where that is in a helper thread, when it returns. An unknown one is let pass."""
        if (sample := self._samples.get(task_id)) is None:
            return
        sample.is_cancelled = True
        if isinstance(sample.rendezvous.parked, NetworkCall):
            self._groups.discard(sample)
            with torch.inference_mode():  # as in `Engine.tick`: pipelines restore the mode that they were begun in
                self.go_on(sample, Returned(error=TaskCancelled(task_id)))

    def _follow(self, sample: Sample) -> None:
        """Put a sample where it waits next, or end it."""
        call = sample.rendezvous.parked
        match call:
            case NetworkCall(stage="denoise"):
                sample.begin_denoising()
                self._groups.add(sample, call)
            case NetworkCall():
                # The next one begins now: were it to wait for the pixels, the passes meanwhile would be half empty.
                self._rooms.begin_decoding(sample)
                self._groups.add(sample, call)
            case ThreadCall():
                self._helper_threads.run(sample, call)
            case _:
                self._end(sample)

    def _end(self, sample: Sample) -> None:
        del self._samples[sample.task.task_id]
        self._models.unpin(sample.take_model())
        self._rooms.leave(sample)
        self._on_end(sample)

    def _at_step(self, sample: Sample, latents: torch.Tensor | None) -> None:
        self._on_progress(sample.progress())
        if self._on_preview is not None and latents is not None:
            self._on_preview(sample.task.task_id, latents)
