"""Models on their way from the disk to the device, one at a time: memory must be freed for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from sd_worker.engine.cores import compute_on
from sd_worker.engine.devices import Device, is_out_of_memory
from sd_worker.engine.errors import EngineStopped, drop_tracebacks
from sd_worker.engine.models.loaded_model import LoadedModel, ReadModel
from sd_worker.engine.models.resident_models import ResidentModels
from sd_worker.engine.reports import LoadProgress


@dataclass
class Read:
    """A model is read to the CPU, where its size becomes known, and moved to the device once there is memory for it."""

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
    #: Because of which it has ended without the model.
    error: BaseException | None = None


class Reads:
    """In a thread of its own, in turn: the first is read, or being moved."""

    def __init__(self, resident: ResidentModels, device: Device, on_change: Callable[[], None]) -> None:
        """`on_change` is called from the thread."""
        self._resident = resident
        self._device = device
        self._on_change = on_change
        self._reads: OrderedDict[str, Read] = OrderedDict()
        # What is read for a GPU is converted on the CPU, of which the engine then needs little.
        num_cores = 1 if device.torch_device.type == "cpu" else torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "model-loader", compute_on, (num_cores,))
        self._is_stopped = False

    def __contains__(self, name: str) -> bool:
        return name in self._reads

    def progress(self) -> dict[str, LoadProgress | None]:
        """How far each is."""
        return {read.name: read.progress for read in self._reads.values()}

    @property
    def waits_for_memory(self) -> bool:
        """Whether the first waits until no sample runs on the models that must go for it."""
        first = self._first()
        return first is not None and first.model is not None and first.work is None

    def add(self, name: str, read: ReadModel, begun_at: float) -> None:
        """Read a model, which is on the disk, after the others."""
        self._reads[name] = Read(name, read, begun_at)

    def poll(self, wanted: Sequence[str]) -> list[Read]:
        """Take the first further. What is not wanted any more is given up, but for what the thread is at. Returns what
        has ended: its model is resident, or it has an error."""
        first = self._first()
        ended = [self._reads.pop(first.name)] if first is not None and self._has_ended(first) else []
        self._give_up_all_but(wanted)
        if (first := self._first()) is not None and first.work is None:
            self._begin_work(first)
        return ended

    def stop(self) -> None:
        """Give up all. What is being read ends at its next progress. Idempotent."""
        self._is_stopped = True
        self._reads.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _first(self) -> Read | None:
        return next(iter(self._reads.values()), None)

    def _give_up_all_but(self, wanted: Sequence[str]) -> None:
        """Of those that wait, for their turn or for memory."""
        unwanted = [read for read in self._reads.values() if read.work is None and read.name not in wanted]
        has_been_read = any(read.model is not None for read in unwanted)
        while unwanted:
            del self._reads[unwanted.pop().name]
        if has_been_read:
            self._resident.free()

    def _has_ended(self, read: Read) -> bool:
        """Takes what the thread has done."""
        if read.work is None or not read.work.done():
            return False
        if (error := read.work.exception()) is not None:
            return self._has_failed(read, error)
        if read.model is not None:
            self._resident.add(read.model)
            return True
        read.model, read.work = read.work.result(), None
        return False

    def _begin_work(self, read: Read) -> None:
        """Have it read, or moved once there is memory for it."""
        if (model := read.model) is None:
            read.work = self._in_thread(lambda: self._read(read))
        elif self._resident.free_memory_for(model.num_bytes, is_to_be_alone=read.is_to_be_alone):
            read.work = self._in_thread(lambda: _moved(model, self._device))

    def _read(self, read: Read) -> LoadedModel:
        def on_progress(progress: LoadProgress) -> None:
            if self._is_stopped:
                raise EngineStopped("the model is given up")
            read.progress = progress
            self._on_change()

        return read.read(on_progress)

    def _in_thread(self, work: Callable[[], LoadedModel]) -> Future[LoadedModel]:
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._on_change())
        return future

    def _has_failed(self, read: Read, error: BaseException) -> bool:
        """For good: where memory ran out beside others, it is tried again without them."""
        read.model = None
        if is_out_of_memory(error) and not read.is_to_be_alone and self._resident.resident():
            drop_tracebacks(error)  # they hold what of the model was moved
            read.is_to_be_alone, read.work = True, None
            self._resident.drop_unused()
            return False
        read.error = error
        self._resident.free()
        return True


def _moved(model: LoadedModel, device: Device) -> LoadedModel:
    model.pipeline.to(device.torch_device)
    return model
