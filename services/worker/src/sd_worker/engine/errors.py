"""Errors of the engine.

    EngineError
    ├── InvalidInput            parameters or pictures that this model cannot run
    ├── ModelUnavailable        a model that cannot be loaded
    ├── DownloadDamaged         a file that is not what the hub says it is
    ├── DeviceUnavailable       a device that this machine does not have, or that has failed
    ├── TaskCancelled           unwinds a running task's pipeline; never leaves the engine
    └── EngineStopped           a task submitted after `drain` or `stop`; a read or a fetch that is given up

The messages of `InvalidInput` and `ModelUnavailable` are sentences for the client: they say what to do, and hold no
path.
"""

from __future__ import annotations

from collections.abc import Iterator


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what led to it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def drop_tracebacks(error: BaseException) -> None:
    """Free what the functions that `error` came through had in memory, once it has been logged, or noted.

    A traceback holds their frames, and one of these the error: only the garbage collector would find that circle.
    `traceback.clear_frames` does not break it, since Python 3.11 keeps what `locals()` gave, which diffusers asks for
    at each step.
    """
    for cause in chain_of(error):
        cause.__traceback__ = None


class EngineError(Exception):
    """Base of what the engine raises."""


class InvalidInput(EngineError, ValueError):
    """Parameters or pictures that the model cannot run."""


class ModelUnavailable(EngineError):
    """The model cannot be loaded."""


class DownloadDamaged(EngineError):
    """A file that was downloaded is not what the hub says it is; it has been thrown away."""


class DeviceUnavailable(EngineError):
    """This machine does not have the device, its number format is unknown, or it has failed for good."""


class TaskCancelled(EngineError):
    """Somebody cancelled the running task."""


class EngineStopped(EngineError):
    """The engine takes no more tasks, or wants a model no more."""
