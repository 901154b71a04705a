"""Stored events as clients see them: with their sequence. OpenAPI tells of these; sent are the stored bytes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sd_common.events import AbortedEvent, FinishedEvent, PendingEvent, StartedEvent

Sequence = Annotated[
    int,
    Field(ge=1, description="The event's place among all events, higher than those of all before it: for `since`."),
]


class ShownPendingEvent(PendingEvent):
    """The task is queued. Comes again when a worker that had started it hands it back."""

    sequence: Sequence


class ShownStartedEvent(StartedEvent):
    """A worker runs the task. Comes again when that worker was lost, with a higher attempt, or handed it back."""

    sequence: Sequence


class ShownFinishedEvent(FinishedEvent):
    """The picture is stored. Terminal."""

    sequence: Sequence


class ShownAbortedEvent(AbortedEvent):
    """There will be no picture. Terminal."""

    sequence: Sequence


ShownEvent = Annotated[
    ShownPendingEvent | ShownStartedEvent | ShownFinishedEvent | ShownAbortedEvent,
    Field(discriminator="event_type"),
]
