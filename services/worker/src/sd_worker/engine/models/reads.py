"""Models on their way from the disk to the device, one at a time: memory must be freed for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from sd_worker.engine.cores import compute_on
from sd_worker.engine.devices import Device, is_out_of_memory
from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.models.loaded_model import LoadedModel, ReadModel
from sd_worker.engine.models.resident_models import ResidentModels
from sd_worker.engine.reports import LoadProgress


@dataclass
class ComingModel:
    """A model that is read to the CPU, where its size becomes known, and moved to the device once there is memory."""

    name: str
    read: ReadModel
    begun_at: float
    #: What is under way in the thread; None while it waits for its turn, and once it has been read, for memory.
    work: Future[LoadedModel] | None = None
    #: Once it has been read.
    model: LoadedModel | None = None
    progress: LoadProgress | None = None
    #: Memory ran out beside others.
    is_to_be_alone: bool = False
    #: Because of which it does not come.
    error: BaseException | None = None


class Reads:
    """In a thread of its own, in turn: the first is read, or being moved."""

    def __init__(self, resident: ResidentModels, device: Device, on_change: Callable[[], None]) -> None:
        """`on_change` is called from the thread."""
        self._resident = resident
        self._device = device
        self._on_change = on_change
        self._coming: OrderedDict[str, ComingModel] = OrderedDict()
        # What is read for a GPU is converted on the CPU, of which the engine then needs little.
        num_cores = 1 if device.torch_device.type == "cpu" else torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "model-loader", compute_on, (num_cores,))
        self._is_stopped = False

    def __contains__(self, name: str) -> bool:
        return name in self._coming

    def progress(self) -> dict[str, LoadProgress | None]:
        """How far each is."""
        return {coming.name: coming.progress for coming in self._coming.values()}

    @property
    def waits_for_memory(self) -> bool:
        """Whether the first waits until no sample runs on the models that must go for it."""
        first = self._first()
        return first is not None and first.model is not None and first.work is None

    def add(self, name: str, read: ReadModel, begun_at: float) -> None:
        """Have a model, which is on the disk, read after the others."""
        self._coming[name] = ComingModel(name, read, begun_at)

    def poll(self, wanted: Sequence[str]) -> list[ComingModel]:
        """Take the first further. What is not wanted any more is given up, but for what the thread is at. Returns what
        has ended: its model is resident, or it has an error."""
        first = self._first()
        ended = [self._coming.pop(first.name)] if first is not None and self._take_result(first) else []
        self._give_up_all_but(wanted)
        if (first := self._first()) is not None and first.work is None:
            self._begin_work(first)
        return ended

    def stop(self) -> None:
        """Give up all. What is being read ends at its next progress. Idempotent."""
        self._is_stopped = True
        self._coming.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _first(self) -> ComingModel | None:
        return next(iter(self._coming.values()), None)

    def _take_result(self, coming: ComingModel) -> bool:
        """Take what the thread has done; whether the model's way has ended."""
        if coming.work is None or not coming.work.done():
            return False
        if (error := coming.work.exception()) is not None:
            coming.model, coming.work = None, None
            if is_out_of_memory(error) and not coming.is_to_be_alone and self._resident.resident():
                coming.is_to_be_alone = True  # and is read again
                return False
            coming.error = error
            self._resident.free_later()  # once the error has been logged
            return True
        if coming.model is not None:
            self._resident.add(coming.model)
            return True
        coming.model, coming.work = coming.work.result(), None
        return False

    def _give_up_all_but(self, wanted: Sequence[str]) -> None:
        """Of those that wait, for their turn or for memory."""
        unwanted = [coming for coming in self._coming.values() if coming.work is None and coming.name not in wanted]
        has_been_read = any(coming.model is not None for coming in unwanted)
        while unwanted:
            del self._coming[unwanted.pop().name]
        if has_been_read:
            self._resident.free()

    def _begin_work(self, coming: ComingModel) -> None:
        """Have it read, or moved once there is memory for it."""
        if coming.model is None:
            if coming.is_to_be_alone:
                self._resident.drop_unused()
            coming.work = self._in_thread(lambda: self._read(coming))
        elif self._resident.free_memory_for(coming.model.num_bytes, is_to_be_alone=coming.is_to_be_alone):
            coming.work = self._in_thread(lambda: self._move(coming))

    def _in_thread(self, work: Callable[[], LoadedModel]) -> Future[LoadedModel]:
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._on_change())
        return future

    def _read(self, coming: ComingModel) -> LoadedModel:
        def on_progress(progress: LoadProgress) -> None:
            if self._is_stopped:
                raise EngineStopped("the model is given up")
            coming.progress = progress
            self._on_change()

        return coming.read(on_progress)

    def _move(self, coming: ComingModel) -> LoadedModel:
        # Not handed over: what runs out of memory would be kept by the call, while memory is freed for another try.
        model = coming.model
        assert model is not None
        model.pipeline.to(self._device.torch_device)
        return model
