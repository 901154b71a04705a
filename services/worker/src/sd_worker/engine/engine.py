"""The engine: many tasks' samples on one device, a forward pass a tick.

A task waits until its model is resident and there is room, then it is a sample until its pipeline has a picture, which
helper threads finish:

    submit ─▶ waiting ─▶ sample ⇄ parked at a network ─▶ finishing ─▶ outcome
                           └⇄ parked at a thread (safety check)

`rendezvous` explains how pipelines share a pass; `groups` says whose turn it is, `row_caps` how many rows it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.errors import TaskCancelled, drop_tracebacks
from sd_worker.engine.failures import failure_of
from sd_worker.engine.finishing import Finishing, Returned
from sd_worker.engine.groups import Groups
from sd_worker.engine.loaded_model import LoadedModel
from sd_worker.engine.models import Models
from sd_worker.engine.passes import Broken, run_tolerantly
from sd_worker.engine.reports import PassMade, Workload
from sd_worker.engine.rooms import Rooms
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.samples import Sample
from sd_worker.engine.sharing import ThreadCall
from sd_worker.engine.tasks import Cancelled, EngineTask, Failed, Outcome, Progress
from sd_worker.engine.waiting_tasks import Waiting, WaitingTasks

#: Rows of each pass of a deterministic task.
NUM_FIXED_ROWS = 8


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
        self._row_caps = row_caps
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._on_pass = on_pass
        self._finishing = Finishing(on_change)
        self._rooms = Rooms()
        self._waiting = WaitingTasks(models, self._rooms, on_progress=on_progress, on_change=on_change)
        self._samples: dict[str, Sample] = {}
        self._groups = Groups()
        self._outcomes: list[Outcome] = []
        self._num_taken = 0
        #: Something has ended since waiting tasks were looked at.
        self._may_start = False
        self._is_draining = False

    def submit(self, task: EngineTask) -> None:
        """Take a task. Every task gets exactly one outcome from `tick`."""
        self._waiting.add(task)
        self._num_taken += 1
        self._may_start = True

    def cancel(self, task_id: str) -> None:
        """End a task as `Cancelled`, unless its picture is there already. An unknown one is let pass."""
        if self._waiting.remove(task_id):
            self._outcomes.append(Cancelled(task_id))
        elif (sample := self._samples.get(task_id)) is not None:
            sample.is_cancelled = True
            if isinstance(sample.rendezvous.parked, NetworkCall):  # else it is in a helper thread
                self._groups.discard(sample)
                with torch.inference_mode():  # as in `tick`: pipelines restore the mode that they were begun in
                    self._follow(sample, sample.throw(TaskCancelled(task_id)))

    def drain(self) -> None:
        """Cancel what has not begun, give up what is loaded or fetched, and begin nothing more."""
        self._is_draining = True
        for task_id in self._waiting:
            self.cancel(task_id)
        self._models.stop()

    def cancel_all(self) -> None:
        """Cancel every task."""
        for task_id in (*self._waiting, *self._samples):
            self.cancel(task_id)

    def tick(self) -> list[Outcome]:
        """Start what there is room for, make one forward pass, go on with its samples. Returns what has ended.

        An error ends the tasks that it belongs to. Raises `DeviceUnavailable` where the device itself has failed.
        """
        with torch.inference_mode():  # it is set for a thread, so for all its greenlets
            self._take_what_threads_did()
            self._outcomes += self._waiting.look_after_models()
            self._start_waiting()
            if self._groups:
                self._make_a_pass()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    @property
    def has_work(self) -> bool:
        """Whether `tick` has a pass to make. Else there is nothing to do until `on_change` is called."""
        return bool(self._groups or self._outcomes or self._may_start)

    @property
    def workload(self) -> Workload:
        """How much there is to do."""
        return Workload(
            self._rooms.workload + self._waiting.workload,
            self._rooms.last_share,
            self._models.waits_for_room,
            num_samples=len(self._samples),
            num_waiting=len(self._waiting),
            num_taken=self._num_taken,
        )

    def stop(self) -> None:
        """Let the helper threads end."""
        self._finishing.stop()
        self._models.stop()

    # What happened elsewhere

    def _take_what_threads_did(self) -> None:
        for done in self._finishing.done():
            match done:
                case Returned(sample, result, error):
                    if sample.is_cancelled:
                        error = TaskCancelled(sample.task.task_id)
                    self._follow(sample, sample.resume(result) if error is None else sample.throw(error))
                case outcome:
                    self._outcomes.append(outcome)

    # Starting

    def _start_waiting(self) -> None:
        self._may_start = False
        for found in self._waiting.startable(self._may_begin):
            if isinstance(found, Failed):
                self._outcomes.append(found)
            else:
                self._start(*found)

    def _may_begin(self, waiting: Waiting) -> bool:
        """A task that is tried again has the device for itself."""
        return not self._samples or not (waiting.is_retry or self._is_retrying)

    @property
    def _is_retrying(self) -> bool:
        return any(sample.waiting.is_retry for sample in self._samples.values())

    def _start(self, waiting: Waiting, model: LoadedModel) -> None:
        sample = Sample(waiting, model, NUM_FIXED_ROWS, self._at_step)
        self._samples[waiting.task.task_id] = sample
        self._models.pin(model)
        self._rooms.enter(sample, waiting.complete_for(model))
        self._on_progress(sample.progress())
        self._follow(sample, sample.resume())

    def _at_step(self, sample: Sample, latents: torch.Tensor | None) -> None:
        self._on_progress(sample.progress())
        if self._on_preview is not None and latents is not None:
            self._on_preview(sample.task.task_id, latents)

    # A pass

    def _make_a_pass(self) -> None:
        sample, call = self._groups.first()
        try:
            max_rows = self._row_caps.of(call)
        except Exception:  # the pass itself fails then, too
            max_rows = call.num_rows
        if call.stage == "denoise" and sample.waiting.room is not None:
            # One that shares with nobody fills a pass.
            full_num_rows = max_rows if call.owner is None else call.num_rows
            self._rooms.learn(sample.waiting.room, call.num_rows, full_num_rows)
        parked = self._groups.take(max_rows)
        started_at = time.perf_counter()
        results = run_tolerantly([call for _, call in parked], self._row_caps)
        seconds = time.perf_counter() - started_at
        num_rows = sum(call.num_rows for _, call in parked)
        self._on_pass(PassMade(call.stage, num_rows, max(num_rows, max_rows), seconds))
        for (sample, _), result in zip(parked, results, strict=True):
            self._follow(sample, sample.throw(result.error) if isinstance(result, Broken) else sample.resume(result))

    def _follow(self, sample: Sample, call: object) -> None:
        """Put a sample where it waits next, or end it."""
        match call:
            case NetworkCall():
                if call.stage == "decode":
                    # The next one begins now: were it to wait for the pixels, the passes meanwhile would be half empty.
                    self._rooms.begin_decoding(sample)
                    self._may_start = True
                self._groups.add(sample, call)
            case ThreadCall():
                self._finishing.run(sample, call)
            case _:
                self._end(sample)

    def _end(self, sample: Sample) -> None:
        task, model, error = sample.task, sample.take_model(), sample.rendezvous.error
        del self._samples[task.task_id]
        self._models.unpin(model)
        self._rooms.leave(sample)
        self._may_start = True
        if sample.rendezvous.ended is not None:
            self._finishing.finish(sample, sample.rendezvous.ended)
            return
        failure = None if error is None or isinstance(error, TaskCancelled) else failure_of(task, error)
        if error is not None:
            drop_tracebacks(error)
        if failure is None:
            self._outcomes.append(Cancelled(task.task_id))
        else:
            self._fail(sample.waiting, model.name, failure)

    def _fail(self, waiting: Waiting, model: str, failure: Failed) -> None:
        if failure.code == "out_of_memory" and not waiting.is_retry:
            has_freed_some = self._models.drop_unused(but=model) > 0
            if has_freed_some or self._samples:
                self._waiting.add_retry(waiting)
                if self._is_draining:
                    self.cancel(failure.task_id)
                return
        if failure.code == "internal":
            self._models.check_device()
            # It may have left shared modules half changed. Those that run on the model go on with it.
            self._models.drop(model)
        self._outcomes.append(failure)
