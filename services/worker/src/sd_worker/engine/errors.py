"""Errors of the engine.

    EngineError
    ├── InvalidInput            parameters or pictures that this model cannot run
    ├── ModelUnavailable        a model that cannot be loaded
    ├── DownloadDamaged         a file that is not what the hub says it is
    ├── DeviceUnavailable       a device that this machine does not have
    ├── TaskCancelled           unwinds a running task's pipeline; never leaves the engine
    ├── TaskAlreadySubmitted    a task id that has not ended yet
    └── EngineStopped           a task submitted after `drain` or `stop`

The messages of `InvalidInput` and `ModelUnavailable` are sentences for the client: they say what to do, and hold no
path.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of what the engine raises."""


class InvalidInput(EngineError, ValueError):
    """Parameters or pictures that the model cannot run."""


class ModelUnavailable(EngineError):
    """The model cannot be loaded."""


class DownloadDamaged(EngineError):
    """A file that was downloaded is not what the hub says it is; it has been thrown away."""


class DeviceUnavailable(EngineError):
    """This machine does not have the device."""


class TaskCancelled(EngineError):
    """Somebody cancelled the running task."""


class TaskAlreadySubmitted(EngineError):
    """The engine has this task already, and has not told its outcome."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"Task {task_id} was submitted before and has not ended")
        self.task_id = task_id


class EngineStopped(EngineError):
    """The engine takes no more tasks."""
