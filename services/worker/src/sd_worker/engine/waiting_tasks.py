"""Tasks that have not begun: they wait for their model to be resident, then for room."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace

from sd_worker.engine.errors import InvalidInput, drop_tracebacks
from sd_worker.engine.failures import failure_of, load_failure_of
from sd_worker.engine.models.default_parameters import with_defaults
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.models.loads import Models
from sd_worker.engine.reports import LoadProgress
from sd_worker.engine.rooms import Room, Rooms
from sd_worker.engine.tasks import EngineTask, Failed, Progress


@dataclass(eq=False)
class Waiting:
    """A task that has not begun."""

    task: EngineTask
    #: When its model began to be loaded; None: it was resident.
    load_requested_at: float | None = None
    #: When it was there then, and how long that took.
    loaded_at: float | None = None
    loading_s: float = 0.0
    told_load: LoadProgress | None = None
    #: Memory ran out for it before, so it gets the device for itself.
    is_retry: bool = False
    #: The device for itself was too little for its pixels at once.
    decodes_in_tiles: bool = False
    #: What it will take up, once its model has said its defaults.
    room: Room | None = None

    def model_has_come(self, now: float) -> None:
        """The task may yet wait for room."""
        if self.load_requested_at is not None:
            self.loaded_at, self.loading_s = now, now - self.load_requested_at

    def complete_for(self, model: LoadedModel) -> Room:
        """Complete the task with its model's defaults. Raises `InvalidInput` where the two do not go together."""
        if self.room is None:
            self.task = replace(self.task, parameters=with_defaults(self.task.parameters, model.default_parameters))
            self.room = room_of(self.task, model)
        return self.room


def room_of(task: EngineTask, model: LoadedModel) -> Room:
    """What a task takes up. Guidance takes a second row, for the prediction without the prompt."""
    if not model.sharing.shares_denoising:
        return Room(model.name, 1)
    place = (model.name, *task.size_px, task.parameters.deterministic)
    return Room(place, 2 if task.parameters.guidance > 1 else 1)


class WaitingTasks:
    """Has models loaded for those that wait, tells them how far that is, and says which may begin."""

    def __init__(self, models: Models, rooms: Rooms, on_progress: Callable[[Progress], None]) -> None:
        self._models = models
        self._rooms = rooms
        self._on_progress = on_progress
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        #: Since `startable` looked.
        self._has_new = False
        self._num_departures_before = 0

    def __iter__(self) -> Iterator[str]:
        """Their ids, in the order of submission."""
        return iter(tuple(self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def passes(self) -> float:
        """The full passes that a step of all of them takes. Those whose model is being fetched count when it is on the
        disk: until then they keep nobody waiting, and are few, since a worker takes one job of such a model."""
        fetching = self._models.fetching()
        # Of those whose model is not resident, what they take up is not known yet: as much as the last one.
        return sum(
            self._rooms.passes_of_last if waiting.room is None else self._rooms.passes_of(waiting.room)
            for waiting in self._waiting.values()
            if waiting.task.parameters.model not in fetching
        )

    @property
    def may_start(self) -> bool:
        """Whether a task has come, or a sample has made room, since `startable` looked."""
        return self._has_new or self._rooms.num_departures != self._num_departures_before

    def add(self, task: EngineTask) -> None:
        """Put a task behind the others."""
        self._waiting[task.task_id] = Waiting(task)
        self._has_new = True

    def add_retry(self, waiting: Waiting) -> None:
        """Put one for which memory ran out before the others: it may yet fit alone."""
        waiting.is_retry = True
        waiting.load_requested_at = None
        self._waiting[waiting.task.task_id] = waiting
        self._waiting.move_to_end(waiting.task.task_id, last=False)

    def remove(self, task_id: str) -> bool:
        """Take a task out; whether it was here."""
        return self._waiting.pop(task_id, None) is not None

    def look_after_models(self) -> list[Failed]:
        """Have the models loaded that are awaited. Returns the tasks whose model cannot be."""
        failures: list[Failed] = []
        wanted = dict.fromkeys(waiting.task.parameters.model for waiting in self._waiting.values())
        for name, error in self._models.poll(tuple(wanted)).items():
            if error is not None:
                failures += [load_failure_of(waiting.task, error) for waiting in self._of_model(name)]
                drop_tracebacks(error)
                continue
            now = time.perf_counter()
            for waiting in self._of_model(name):
                waiting.model_has_come(now)
        for failure in failures:
            self.remove(failure.task_id)
        self._tell_of_models()
        return failures

    def startable(self, may_begin: Callable[[Waiting], bool]) -> Iterator[tuple[Waiting, LoadedModel, Room] | Failed]:
        """Take out those whose model is resident, and for which there is room, until there is none or one may not
        begin; and those that their model cannot make. Each begins before the next is looked at.

        Where one finds no room in its place, later ones that need less do not go there before it: they could keep it
        waiting for ever.
        """
        self._has_new, self._num_departures_before = False, self._rooms.num_departures
        full_places: set[Hashable] = set()
        for waiting in tuple(self._waiting.values()):
            # While a load waits for memory, samples that run end first, or others would keep it taken for ever.
            if self._models.waits_for_memory or self._rooms.is_full or not may_begin(waiting):
                return
            model = self._models.get(waiting.task.parameters.model)
            if model is None:
                continue
            try:
                room = waiting.complete_for(model)
            except InvalidInput as error:
                self.remove(waiting.task.task_id)
                yield failure_of(waiting.task, error)
                continue
            if room.place in full_places:
                continue
            if not self._rooms.has_room_for(room):
                full_places.add(room.place)
                continue
            self.remove(waiting.task.task_id)
            yield waiting, model, room

    def _of_model(self, name: str) -> list[Waiting]:
        return [waiting for waiting in self._waiting.values() if waiting.task.parameters.model == name]

    def _tell_of_models(self) -> None:
        now = time.perf_counter()
        for name, progress in self._models.coming.items():
            for waiting in self._of_model(name):
                if waiting.load_requested_at is None:
                    waiting.load_requested_at = now
                if progress is not None and progress != waiting.told_load:
                    waiting.told_load = progress
                    task, num_bytes = waiting.task, (progress.bytes_done, progress.bytes_total)
                    self._on_progress(Progress(task.task_id, progress.stage, 0, task.planned_steps, *num_bytes))
