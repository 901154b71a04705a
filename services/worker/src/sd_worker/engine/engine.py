"""The engine: the one thread that runs torch, and what others may ask of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sd_worker.engine.errors import EngineStopped, TaskAlreadySubmitted, TaskCancelled
from sd_worker.engine.failures import failure_of
from sd_worker.engine.models import ModelCache
from sd_worker.engine.pipelines import GeneratedPicture, generate, planned_steps
from sd_worker.engine.png import encode_png
from sd_worker.engine.tasks import Cancelled, EngineTask, Failed, Finished, Outcome, Progress, Timings

_log = logging.getLogger(__name__)

#: Threads that encode pictures. zlib leaves the interpreter lock alone, so the next task runs meanwhile.
_NUM_FINISHERS = 2


@dataclass(eq=False)
class _Run:
    """A task that is running."""

    task: EngineTask
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Generated:
    """A picture that is still to be encoded."""

    picture: GeneratedPicture
    loading_s: float
    generating_s: float


class Engine:
    """Runs tasks one after another, in the order of submission, on one thread of its own.

    Every task gets exactly one outcome, whatever happens, and no progress after it. `on_progress` is called from the
    engine thread, `on_outcome` from a finishing thread, one call at a time, so that neither a picture that is ready nor
    a queued task that is cancelled waits for the next step or for a model to load. Both should return at once; what
    they raise is logged. All methods may be called from any thread, also from the callbacks, but for `stop`.
    """

    def __init__(
        self,
        models: ModelCache,
        on_progress: Callable[[Progress], None],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._models = models
        self._on_progress = on_progress
        self._on_outcome = on_outcome
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._finishers = ThreadPoolExecutor(_NUM_FINISHERS, thread_name_prefix="engine-finisher")
        self._outcome_lock = threading.Lock()
        # What follows is guarded by the condition, which is notified of each change.
        self._changed = threading.Condition()
        self._queued: dict[str, EngineTask] = {}
        self._running: _Run | None = None
        self._task_ids: set[str] = set()
        self._num_untold = 0
        self._stopping = False

    def start(self) -> None:
        """Start the engine thread. Tasks submitted before wait until then."""
        self._thread.start()

    def submit(self, task: EngineTask) -> None:
        """Queue `task`. Raises `EngineStopped`, or `TaskAlreadySubmitted` while a task of its id has no outcome."""
        with self._changed:
            if self._stopping:
                raise EngineStopped("The engine takes no more tasks")
            if task.task_id in self._task_ids:
                raise TaskAlreadySubmitted(task.task_id)
            self._task_ids.add(task.task_id)
            self._num_untold += 1
            self._queued[task.task_id] = task
            self._changed.notify_all()

    def cancel(self, task_id: str) -> None:
        """End a task as `Cancelled`: at once if it is queued, after the present step if it runs.

        While its model is loaded, when that ends. An unknown id is let pass, and so is a task whose picture is ready.
        """
        with self._changed:
            if self._queued.pop(task_id, None) is not None:
                self._finishers.submit(self._tell, Cancelled(task_id))
            elif self._running is not None and self._running.task.task_id == task_id:
                self._running.cancelled.set()

    def stop(self, timeout_s: float) -> bool:
        """Cancel what is queued and what runs, and end. Idempotent.

        Returns whether all outcomes have been told within `timeout_s` seconds: a model being loaded cannot be
        interrupted. They are told later then, unless the process ends first.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._stopping = True
            for task_id in self._queued:
                self._finishers.submit(self._tell, Cancelled(task_id))
            self._queued.clear()
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
            all_told = self._changed.wait_for(lambda: self._num_untold == 0, timeout_s)
        if not all_told:
            return False
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self._finishers.shutdown(wait=False)
        return not self._thread.is_alive()

    def resident_models(self) -> tuple[str, ...]:
        """Names of the models in memory, the most recently used last."""
        return self._models.resident()

    def _work(self) -> None:
        while (run := self._next_run()) is not None:
            ending = self._run(run)
            with self._changed:
                self._running = None
            self._finishers.submit(self._finish, run.task, ending)

    def _next_run(self) -> _Run | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queued or self._stopping)
            if self._stopping:
                return None
            self._running = _Run(self._queued.pop(next(iter(self._queued))))
            return self._running

    def _run(self, run: _Run) -> _Generated | Cancelled | Failed:
        ending = self._attempt(run)
        if isinstance(ending, Failed) and self._forget_models_after(ending, run.task.parameters.model):
            ending = self._attempt(run)
            if isinstance(ending, Failed):
                self._forget_models_after(ending, run.task.parameters.model)
        return ending

    def _attempt(self, run: _Run) -> _Generated | Cancelled | Failed:
        try:
            return self._generate(run)
        except TaskCancelled:
            return Cancelled(run.task.task_id)
        except BaseException as error:  # the thread must outlive every task, and each task have its outcome
            return failure_of(run.task, error)

    def _generate(self, run: _Run) -> _Generated:
        task = run.task
        steps = planned_steps(task.parameters)
        told_step = 0

        def on_pass(passes: int, num_passes: int) -> None:
            nonlocal told_step
            _check_cancelled(run)
            step = passes * steps // num_passes
            if step > told_step:
                told_step = step
                self._report(Progress(task.task_id, "denoising", step, steps))

        started = time.perf_counter()
        if task.parameters.model not in self._models.resident():
            self._report(Progress(task.task_id, "loading", 0, steps))
        _check_cancelled(run)
        model = self._models.get(task.parameters.model)
        _check_cancelled(run)
        loaded = time.perf_counter()
        self._report(Progress(task.task_id, "denoising", 0, steps))
        picture = generate(model, task, on_pass)
        _check_cancelled(run)
        return _Generated(picture, loaded - started, time.perf_counter() - loaded)

    def _forget_models_after(self, failure: Failed, model: str) -> bool:
        """Drop the models that the failure may have spoilt or been caused by. Returns whether to try again.

        A task that broke in the middle may leave shared modules half changed: SDXL casts its VAE to float32 and back.
        Where memory ran out beside other models, the task may yet fit alone.
        """
        if failure.code == "internal":
            self._models.drop(model)
        if failure.code != "out_of_memory":
            return False
        others = [name for name in self._models.resident() if name != model]
        self._models.clear()
        return bool(others)

    def _finish(self, task: EngineTask, ending: _Generated | Cancelled | Failed) -> None:
        if not isinstance(ending, _Generated):
            self._tell(ending)
            return
        try:
            outcome: Outcome = _encoded(task, ending)
        except BaseException as error:  # as in `_attempt`
            outcome = failure_of(task, error)
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        with self._changed:
            # Before the callback, in which the id may be submitted again.
            self._task_ids.discard(outcome.task_id)
        try:
            with self._outcome_lock:
                self._on_outcome(outcome)
        except Exception:
            _log.exception("on_outcome raised", extra={"task_id": outcome.task_id})
        finally:
            with self._changed:
                self._num_untold -= 1
                self._changed.notify_all()

    def _report(self, progress: Progress) -> None:
        try:
            self._on_progress(progress)
        except Exception:
            _log.exception("on_progress raised", extra={"task_id": progress.task_id})


def _check_cancelled(run: _Run) -> None:
    if run.cancelled.is_set():
        raise TaskCancelled(run.task.task_id)


def _encoded(task: EngineTask, generated: _Generated) -> Finished:
    started = time.perf_counter()
    png = encode_png(generated.picture.image, task.parameters_used)
    timings = Timings(generated.loading_s, generated.generating_s, time.perf_counter() - started)
    return Finished(
        task.task_id, png, task.parameters_used, generated.picture.nsfw_content_detected, timings
    )
