"""Errors of the gateway. Only `http/problems.py` turns them, and those of `sd_common`, into HTTP.

GatewayError
├── NotAuthenticated       no token, or one that is not valid
├── OriginNotAllowed       a web page of an origin that may not use this
├── EmbeddingNotAllowed    a part of another web page that would start a task
├── TooManyRequests        more at once, or in a time, than anybody may ask for
├── Overloaded             requests under way hold as many bytes as may be held
├── AccountRefused         the auth service refused: wrong password, name taken, sign-up disabled
├── TooManyUnfinishedTasks the holder is at the limit
├── IdempotencyKeyReused   another body came under this key before
├── TaskNotFound           the user has no such task
├── TaskWithoutEvent       a task that has not ended, and of which the log has no event
├── UnsupportedBody        a body of a type that the operation does not take, or a compressed one
├── MalformedBody          a body that cannot be read at all
├── BodyTooLarge           a body beyond the limit
└── InvalidInput           fields that are wrong, each with a sentence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class GatewayError(Exception):
    """Base of what the gateway raises."""


class NotAuthenticated(GatewayError):
    """No token, or one that is not valid."""


class OriginNotAllowed(GatewayError):
    """A web page of an origin that may not use this."""

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"Pages of '{origin}' may not use this: the operator can add it to ALLOWED_ORIGINS, or set BASE_URL to it "
            "where it is this gateway's own"
        )


class EmbeddingNotAllowed(GatewayError):
    """A part of another web page that would start a task."""

    def __init__(self) -> None:
        super().__init__(
            "Web pages of others may not have pictures made as a part of them: open the link by itself, or have the "
            "operator add the page's origin to ALLOWED_ORIGINS and ask by fetch"
        )


class TooManyRequests(GatewayError):
    """More at once, or in a time, than anybody may ask for."""

    def __init__(self, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Overloaded(GatewayError):
    """Requests under way hold as many bytes as may be held at once."""


class AccountRefused(GatewayError):
    """The auth service refused, with an HTTP status that fits."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class TooManyUnfinishedTasks(GatewayError):
    """The holder is at the limit."""

    def __init__(self, max_per_holder: int) -> None:
        super().__init__(
            f"You have {max_per_holder:,} unfinished tasks, the most that a user may have: "
            "try again when some have ended, or abort some with DELETE /task/{task_id}"
        )


class IdempotencyKeyReused(GatewayError):
    """Another body came under this key before."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key came with another body before: "
            "repeat that body to get its task, or take a new key for a new task"
        )


class TaskNotFound(GatewayError):
    """The user has no such task."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"You have no task '{task_id}', or it has aged out")


class TaskWithoutEvent(GatewayError):
    """A task that has not ended, and of which the log has no event."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            f"Task '{task_id}' is queued or running, but its log has no event until a worker adds the next one: "
            f"try again later, or abort it with DELETE /task/{task_id}"
        )


class UnsupportedBody(GatewayError):
    """A body of a type that the operation does not take, or a compressed one."""


class MalformedBody(GatewayError):
    """A body that cannot be read at all."""


class BodyTooLarge(GatewayError):
    """A body beyond the limit."""


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field."""

    field: str
    detail: str


class InvalidInput(GatewayError):
    """Fields that are wrong, and how many more there are."""

    def __init__(self, errors: Sequence[FieldError], num_more: int = 0) -> None:
        told = [f"{error.field}: {error.detail}" for error in errors]
        super().__init__("; ".join([*told, f"and {num_more} more"] if num_more else told))
        self.errors = list(errors)
