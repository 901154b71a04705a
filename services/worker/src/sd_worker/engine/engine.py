"""The engine: the one thread that runs torch, and what others may ask of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sd_worker.engine.errors import EngineStopped, TaskAlreadySubmitted
from sd_worker.engine.failures import failure_of
from sd_worker.engine.models import ModelCache
from sd_worker.engine.png import encode_png
from sd_worker.engine.task_runner import Generated, Run, TaskRunner
from sd_worker.engine.tasks import Cancelled, EngineTask, Failed, Finished, KnownModel, Outcome, Progress, Timings

_log = logging.getLogger(__name__)

#: Threads that encode pictures. zlib leaves the interpreter lock alone, so the next task runs meanwhile.
_NUM_FINISHERS = 2


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
        self._runner = TaskRunner(models, self._report)
        self._on_progress = on_progress
        self._on_outcome = on_outcome
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._finishers = ThreadPoolExecutor(_NUM_FINISHERS, thread_name_prefix="engine-finisher")
        self._outcome_lock = threading.Lock()
        # What follows is guarded by the condition, which is notified of each change.
        self._changed = threading.Condition()
        self._queued: dict[str, EngineTask] = {}
        self._running: Run | None = None
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

    def known_models(self) -> tuple[KnownModel, ...]:
        """The models in memory, and those at hand on disk. Reads files."""
        return self._models.known()

    def _work(self) -> None:
        while (run := self._next_run()) is not None:
            ending = self._runner.run(run)
            with self._changed:
                self._running = None
            self._finishers.submit(self._finish, run.task, ending)

    def _next_run(self) -> Run | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queued or self._stopping)
            if self._stopping:
                return None
            self._running = Run(self._queued.pop(next(iter(self._queued))))
            return self._running

    def _finish(self, task: EngineTask, ending: Generated | Cancelled | Failed) -> None:
        if not isinstance(ending, Generated):
            self._tell(ending)
            return
        try:
            outcome: Outcome = _encoded(task, ending)
        except BaseException as error:  # each task has its outcome
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


def _encoded(task: EngineTask, generated: Generated) -> Finished:
    started = time.perf_counter()
    png = encode_png(generated.picture.image, generated.parameters_used)
    timings = Timings(generated.loading_s, generated.generating_s, time.perf_counter() - started)
    return Finished(task.task_id, png, generated.parameters_used, generated.picture.nsfw_content_detected, timings)
