"""Errors of the worker around the engine. `consume_jobs.py` alone turns errors into acknowledgements.

WorkerError
├── InputRejected     a task's pictures cannot be used, or not stored where it says
├── TaskLost          another worker was given the job and has started it
├── LaterVersion      the task's last event is one that only newer workers can read
├── HandedBack        the task did not run, or not to its end: another worker may have it
└── EngineFailed      the engine can do nothing any more: the process is to end, and to be started anew
"""

from __future__ import annotations


class WorkerError(Exception):
    """Base of what the worker raises."""


class InputRejected(WorkerError):
    """A task's pictures cannot be used, or not stored where it says; the message says why, to the client."""


class TaskLost(WorkerError):
    """Another worker was given the job, and has started it."""


class LaterVersion(WorkerError):
    """The task's last event is of a later version: newer workers know what to do."""


class HandedBack(WorkerError):
    """The task did not run, or not to its end: another worker may have it."""


class EngineFailed(WorkerError):
    """The engine can do nothing any more: the process is to end, and to be started anew."""

    def __init__(self) -> None:
        super().__init__(
            "The worker's engine has failed, as the log tells: start this again. If it fails again, look at the device "
            "(of a GPU `nvidia-smi` and `dmesg` tell)"
        )
