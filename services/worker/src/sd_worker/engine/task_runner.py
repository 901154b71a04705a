"""One task at a time, from its model to its pixels. Runs in the engine thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sd_worker.engine.default_parameters import fill_in
from sd_worker.engine.errors import TaskCancelled
from sd_worker.engine.failures import failure_of
from sd_worker.engine.models import ModelCache
from sd_worker.engine.pipelines import GeneratedPicture, generate, planned_steps
from sd_worker.engine.tasks import AnyParameters, Cancelled, EngineTask, Failed, Progress

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Run:
    """A task that is running. Any thread may set `cancelled`."""

    task: EngineTask
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises `TaskCancelled` if somebody cancelled the task."""
        if self.cancelled.is_set():
            raise TaskCancelled(self.task.task_id)


@dataclass(frozen=True)
class Generated:
    """A picture that is still to be encoded."""

    picture: GeneratedPicture
    parameters_used: AnyParameters
    loading_s: float
    generating_s: float


class TaskRunner:
    """Runs tasks on the models of a cache."""

    def __init__(self, models: ModelCache, report: Callable[[Progress], None]) -> None:
        self._models = models
        self._report = report

    def run(self, run: Run) -> Generated | Cancelled | Failed:
        """Make the picture of a task. Raises nothing at all: the thread must outlive every task."""
        ending = self._attempt(run)
        if isinstance(ending, Failed) and self._forget_models_after(ending, run.task.parameters.model):
            ending = self._attempt(run)
            if isinstance(ending, Failed):
                self._forget_models_after(ending, run.task.parameters.model)
        return ending

    def _attempt(self, run: Run) -> Generated | Cancelled | Failed:
        try:
            return self._generate(run)
        except TaskCancelled:
            return Cancelled(run.task.task_id)
        except BaseException as error:
            return failure_of(run.task, error)

    def _generate(self, run: Run) -> Generated:
        task = run.task
        started = time.perf_counter()
        run.check()
        if task.parameters.model not in self._models.resident():
            self._report(Progress(task.task_id, "loading", 0, planned_steps(task.parameters)))
        model = self._models.get(task.parameters.model)
        run.check()
        loaded = time.perf_counter()
        task = replace(task, parameters=fill_in(task.parameters, model.default_parameters))
        steps = planned_steps(task.parameters)
        told_step = 0

        def on_pass(passes: int, num_passes: int) -> None:
            nonlocal told_step
            run.check()
            step = passes * steps // num_passes
            if step > told_step:
                told_step = step
                self._report(Progress(task.task_id, "denoising", step, steps))

        self._report(Progress(task.task_id, "denoising", 0, steps))
        picture = generate(model, task, on_pass)
        run.check()
        parameters_used = task.parameters.model_copy(update={"seed": task.seed})
        return Generated(picture, parameters_used, loaded - started, time.perf_counter() - loaded)

    def _forget_models_after(self, failure: Failed, model: str) -> bool:
        """Drop the models that the failure may have spoilt or been caused by. Returns whether to try again.

        A task that broke in the middle may leave shared modules half changed: SDXL casts its VAE to float32 and back.
        Where memory ran out beside other models, the task may yet fit alone.

        Runs outside of `except`, where the error's traceback would keep the models alive.
        """
        if failure.code not in ("internal", "out_of_memory"):
            return False
        others = [name for name in self._models.resident() if name != model]
        try:
            if failure.code == "internal":
                self._models.drop(model)
            else:
                self._models.clear()
        except Exception:  # a GPU that has failed refuses to free memory, too
            _log.exception("models could not be freed", extra={"model": model})
        return failure.code == "out_of_memory" and bool(others)
