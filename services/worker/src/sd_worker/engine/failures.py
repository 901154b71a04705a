"""What a task's error means to its client."""

from __future__ import annotations

import logging
import traceback

import torch

from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.errors import InvalidInput, ModelUnavailable, chain_of
from sd_worker.engine.tasks import EngineTask, Failed

_log = logging.getLogger(__name__)


def failure_of(task: EngineTask, error: BaseException) -> Failed:
    """The outcome of a task that raised `error`; logs what the client is not told."""
    model = task.parameters.model
    fields = _log_fields(task)
    match error:
        case InvalidInput():
            return Failed(task.task_id, "invalid_input", str(error))
        case ModelUnavailable():
            # The cause tells the operator what the sentence for the client leaves out.
            _log.warning("model unavailable: %s", error, extra=fields, exc_info=error.__cause__)
            return Failed(task.task_id, "model_unavailable", str(error))
        case _ if is_out_of_memory(error):
            _log.warning("out of memory", extra=fields, exc_info=error)
            remedies = "ask for a smaller picture, or choose a smaller model"
            if task.parameters.deterministic:  # its passes have more rows than it needs
                remedies = f"turn 'deterministic' off, {remedies}"
            return Failed(
                task.task_id,
                "out_of_memory",
                f"The worker has too little memory for this picture with model '{model}': {remedies}",
            )
        case _:
            _log.error("task failed", extra=fields, exc_info=error)
            return Failed(
                task.task_id,
                "internal",
                "The worker failed in a way that was not foreseen: try again, "
                "and tell the operator the task's id if it fails again",
            )


def load_failure_of(task: EngineTask, error: BaseException) -> Failed:
    """As `failure_of`, where the task's model could not be loaded: no smaller picture would help."""
    if not is_out_of_memory(error):
        return failure_of(task, error)
    model = task.parameters.model
    _log.warning("out of memory: model not loaded", extra=_log_fields(task), exc_info=error)
    return Failed(
        task.task_id,
        "out_of_memory",
        f"The worker has too little memory to load model '{model}': choose a smaller model, or have the operator give "
        "the worker more memory or lower MODEL_MEMORY_BUDGET",
    )


def came_out_of_a_network(error: BaseException) -> bool:
    """Whether one of torch's modules was running when `error` was raised, by its traceback."""
    frames = (frame for cause in chain_of(error) for frame, _ in traceback.walk_tb(cause.__traceback__))
    return any(frame.f_code.co_filename == torch.nn.modules.module.__file__ for frame in frames)


def _log_fields(task: EngineTask) -> dict[str, str]:
    """What its lines in the log say beside their message."""
    return {"task_id": task.logged_id or task.task_id, "model": task.parameters.model}
