"""The engine: many tasks' samples on one device, a forward pass a tick.

A task waits until its model is resident and there is room (`waiting_tasks`), then it is a sample until its pipeline has
a picture (`running_samples`), which `helper_threads` encode:

    submit ─▶ waiting ─▶ sample ⇄ parked at a network ─▶ encoding ─▶ outcome
                           └⇄ parked at a helper thread (safety check)

`rendezvous` explains how pipelines share a pass. `passes` makes one: `groups` says whose turn it is, `row_caps` how
many rows it takes, `batches` makes one call of many.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from sd_worker.engine.errors import TaskCancelled, drop_tracebacks
from sd_worker.engine.failures import came_out_of_a_network, failure_of
from sd_worker.engine.helper_threads import HelperThreads
from sd_worker.engine.models.loads import Models
from sd_worker.engine.passes import Passes
from sd_worker.engine.reports import PassMade, Workload
from sd_worker.engine.rooms import Rooms
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.running_samples import RunningSamples
from sd_worker.engine.samples import Sample
from sd_worker.engine.tasks import Cancelled, EngineTask, Failed, Outcome, Progress
from sd_worker.engine.waiting_tasks import Waiting, WaitingTasks


class Engine:
    """Not for several threads: `submit`, `cancel` and `tick` belong to one. `engine_thread` gives it one."""

    def __init__(
        self,
        models: Models,
        row_caps: RowCaps,
        *,
        on_progress: Callable[[Progress], None],
        on_change: Callable[[], None],
        on_preview: Callable[[str, torch.Tensor], None] | None = None,
        on_pass: Callable[[PassMade], None] = lambda made: None,
    ) -> None:
        """`on_progress`, `on_preview` (with the task id and the latents of each step) and `on_pass` are called within
        `tick`.
        `on_change` is called from other threads when `tick` has something to do again."""
        self._models = models
        models.on_change(on_change)
        self._rooms = Rooms()
        self._waiting = WaitingTasks(models, self._rooms, on_progress)
        self._helper_threads = HelperThreads(on_change)
        self._running = RunningSamples(
            models,
            self._rooms,
            Passes(row_caps, self._rooms, on_pass),
            self._helper_threads,
            on_progress=on_progress,
            on_preview=on_preview,
            on_end=self._at_end,
        )
        self._outcomes: list[Outcome] = []
        self._num_taken = 0
        self._is_draining = False

    def submit(self, task: EngineTask) -> None:
        """Take a task. Every task gets exactly one outcome from `tick`."""
        self._waiting.add(task)
        self._num_taken += 1

    def cancel(self, task_id: str) -> None:
        """End a task as `Cancelled`, unless its picture is there already. An unknown one is let pass."""
        if self._waiting.remove(task_id):
            self._outcomes.append(Cancelled(task_id))
        else:
            self._running.cancel(task_id)

    def drain(self) -> None:
        """Cancel what has not begun, give up what is loaded or fetched, and begin nothing more."""
        self._is_draining = True
        for task_id in self._waiting:
            self.cancel(task_id)
        self._models.stop()

    def cancel_all(self) -> None:
        """Cancel every task."""
        for task_id in (*self._waiting, *self._running):
            self.cancel(task_id)

    def tick(self) -> list[Outcome]:
        """Start what there is room for, make one forward pass, go on with its samples. Returns what has ended.

        An error ends the tasks that it belongs to. Raises `DeviceUnavailable` where the device itself has failed.
        """
        with torch.inference_mode():  # it is set for a thread, so for all its greenlets
            self._take_what_threads_did()
            self._look_after_models()
            self._start_waiting()
            if self._running.need_a_pass:
                self._running.make_a_pass()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    @property
    def has_work(self) -> bool:
        """Whether `tick` has a pass to make, a task to start or an outcome to tell. Else there is nothing to do until
        `on_change` is called."""
        return bool(self._running.need_a_pass or self._outcomes or self._waiting.may_start)

    @property
    def workload(self) -> Workload:
        """How much there is to do."""
        return Workload(
            self._rooms.passes + self._waiting.passes,
            self._rooms.passes_of_last,
            self._models.waits_for_memory,
            num_samples=len(self._running),
            num_waiting=len(self._waiting),
            num_taken=self._num_taken,
        )

    def stop(self) -> None:
        """Let the helper threads end."""
        self._helper_threads.stop()
        self._models.stop()

    def _take_what_threads_did(self) -> None:
        for done in self._helper_threads.done():
            if isinstance(done, tuple):
                self._running.go_on(*done)
            else:
                self._outcomes.append(done)

    def _look_after_models(self) -> None:
        if self._running.include_a_retry:
            return  # what would be loaded now takes memory that it is to have for itself
        failures = self._waiting.look_after_models()
        if any(failure.code == "internal" for failure in failures):
            self._models.check_device()
        self._outcomes += failures

    def _start_waiting(self) -> None:
        for found in self._waiting.startable(self._may_begin):
            if isinstance(found, Failed):
                self._outcomes.append(found)
                continue
            waiting, model, room = found
            if waiting.is_retry:
                self._models.drop_unused(but=model.name)  # others may have run on theirs when memory ran out
            self._running.start(waiting, model, room)

    def _may_begin(self, waiting: Waiting) -> bool:
        """A task that is tried again has the device for itself."""
        return not self._running or not (waiting.is_retry or self._running.include_a_retry)

    def _at_end(self, sample: Sample) -> None:
        """A pipeline has made its picture, or raised: what becomes of the task."""
        if (picture := sample.rendezvous.ended) is not None:
            self._helper_threads.finish(sample, picture)
            return
        error = sample.rendezvous.error
        assert error is not None, "it has ended, without a picture"
        is_of_a_network = came_out_of_a_network(error)
        failure = None if isinstance(error, TaskCancelled) else failure_of(sample.task, error)
        drop_tracebacks(error)
        if failure is None:
            self._outcomes.append(Cancelled(sample.task.task_id))
        elif failure.code == "out_of_memory" and self._prepare_another_try(sample):
            self._waiting.add_retry(sample.waiting)
            if self._is_draining:
                self.cancel(failure.task_id)
        else:
            self._fail(failure, sample.task.parameters.model if is_of_a_network else None)

    def _fail(self, failure: Failed, changed_model: str | None) -> None:
        """`changed_model`: one whose networks may be left half changed."""
        if failure.code == "internal":
            self._models.check_device()
            if changed_model is not None:
                self._models.drop(changed_model)  # those that run on it go on with it
        self._outcomes.append(failure)

    def _prepare_another_try(self, sample: Sample) -> bool:
        """Give one that ran out of memory the device for itself, or when that has been too little for its pixels, have
        them decoded in tiles. Returns whether another try may do better then."""
        waiting, name = sample.waiting, sample.task.parameters.model
        if not waiting.is_retry and (self._models.drop_unused(but=name) > 0 or self._running):
            return True
        model = self._models.get(name)
        if model is None or waiting.decodes_in_tiles or not sample.is_denoised:
            return False
        waiting.decodes_in_tiles = model.has_tiles_for(sample.task.size_px)
        return waiting.decodes_in_tiles
