"""Errors of the contract.

ContractError
├── SubjectError           a name that cannot stand in a subject
├── PublisherNameError     a name that no publisher can have
├── TaskEnded              an event for a task whose last event is terminal
├── TaskAborted            a task that was waited for has no picture
├── EndOfLaterVersion      a task ended with an event that only a later version reads
├── SequenceConflict       somebody appended to the task first (NATS error 10071)
├── QueueFull              a model's queue is at its cap
├── Unavailable            a part (NATS, S3, auth) does not answer
│   └── StoreFull          a part has no room left to store anything
├── BlobNotFound           no blob has this id
├── BlobTaken              another picture has this id
├── ModelNotAllowed        a model that the operator does not allow
├── BackupError            streams that could not be saved or restored
└── PictureError           bytes that are not a picture this service takes
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # events need the errors of subjects
    from sd_common.events import AbortedEvent


class ContractError(Exception):
    """Base of what `sd_common` raises."""


class SubjectError(ContractError, ValueError):
    """A name that cannot stand in a subject."""


class PublisherNameError(ContractError, ValueError):
    """A name that no publisher can have."""

    def __init__(self, name: str, taken: Collection[str]) -> None:
        super().__init__(
            f"'{name}' cannot be a publisher: take 1 to 32 lower-case letters, digits and '_', a letter first, "
            f"and none of {', '.join(sorted(taken))}"
        )


class TaskEnded(ContractError):
    """The task's last event is terminal: nothing may follow it."""

    def __init__(self, task_id: str, event_type: str) -> None:
        super().__init__(f"Task {task_id} has already {event_type}")
        self.task_id = task_id
        self.event_type = event_type


class TaskAborted(ContractError):
    """A task that was waited for was aborted: `event` says why."""

    def __init__(self, event: AbortedEvent) -> None:
        super().__init__(event.reason)
        self.event = event


class EndOfLaterVersion(ContractError):
    """A task that was followed has ended, and only a later version of this library can read how."""

    def __init__(self, task_id: str, event_type: str) -> None:
        super().__init__(
            f"Task {task_id} has ended with an event '{event_type}' of a later version than this program reads: "
            "upgrade its sd-common"
        )
        self.task_id = task_id
        self.event_type = event_type


class SequenceConflict(ContractError):
    """Somebody appended to the task first: read its last event and decide again."""


class QueueFull(ContractError):
    """The model's queue is at its cap."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The queue of model '{model}' is full: try again when some of its tasks have ended")


class Unavailable(ContractError):
    """A part of the system does not answer."""

    problem = "does not answer at the moment: try again in a few seconds"

    def __init__(self, part: str) -> None:
        super().__init__(f"{part} {self.problem}")


class StoreFull(Unavailable):
    """A part of the system has no room left to store anything; what is there can be read.

    Nothing was stored by the try that was told so. An earlier try of the same call, which timed out, may have been.
    """

    problem = "has no room left at the moment: try again in a minute"


class BlobNotFound(ContractError):
    """No blob has this id."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(f"There is no blob '{blob_id}': it was never stored, or its retention has passed")


class BlobTaken(ContractError):
    """Another picture has this id: pictures never change."""

    def __init__(self, blob_id: str) -> None:
        super().__init__(f"The blob '{blob_id}' is there already, and of no attempt of this task: name a new one")


class ModelNotAllowed(ContractError):
    """The operator does not allow the model."""

    def __init__(self, model: str, patterns: Sequence[str]) -> None:
        super().__init__(f"Model '{model}' is not allowed here: name one of {', '.join(patterns)}")


class BackupError(ContractError):
    """Streams that could not be saved or restored."""


class PictureError(ContractError, ValueError):
    """Bytes that are not a picture this service takes; the message says why, to the client."""
