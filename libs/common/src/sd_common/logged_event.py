"""An event as it stands in EVENTS, of whatever version: read from the stream, and from the feed."""

from __future__ import annotations

from dataclasses import dataclass

from nats.aio.msg import Msg
from pydantic import ValidationError
from pydantic_core import from_json

from sd_common import subjects
from sd_common.errors import SubjectError
from sd_common.events import TERMINAL_TYPES, StoredEvent, stored_event_adapter
from sd_common.stream_reader import StoredMessage
from sd_common.subjects import TaskRef

_SEQUENCE_HEADER = "Nats-Sequence"


@dataclass(frozen=True)
class LoggedEvent:
    """An event as it stands in the stream."""

    ref: TaskRef
    sequence: int
    data: bytes

    @property
    def event(self) -> StoredEvent:
        """The parsed event; raises pydantic's ValidationError for one of a later version."""
        return stored_event_adapter.validate_json(self.data)

    @property
    def known_event(self) -> StoredEvent | None:
        """The parsed event; None for one of a later version."""
        try:
            return self.event
        except ValidationError:
            return None

    @property
    def event_type(self) -> str:
        """Its type alone, also of an event of a later version. Raises ValueError where it is none at all."""
        event_type = event_type_of(self.data)
        if event_type is None:
            raise ValueError("not a JSON object with an event_type")
        return event_type

    @property
    def is_terminal(self) -> bool:
        """Whether the task ended with it, also of an event of a later version."""
        return event_type_of(self.data) in TERMINAL_TYPES

    def shown(self) -> bytes:
        """What clients see: the stored bytes with the `sequence` spliced in."""
        return b'{"sequence":%d,%s' % (self.sequence, self.data.lstrip()[1:])


def event_type_of(data: bytes) -> str | None:
    """The type of an event of any version; None for bytes that are none: no JSON object with a type."""
    try:
        event = from_json(data, allow_inf_nan=False)
    except ValueError:
        return None
    event_type = event.get("event_type") if isinstance(event, dict) else None
    return event_type if isinstance(event_type, str) else None


def event_of_stream(message: StoredMessage) -> LoggedEvent | None:
    """The event that a message of the stream is. None where it is none: whoever may publish events may publish other
    bytes too, and on subjects of a wrong form."""
    try:
        _, ref = subjects.parse_task_subject(message.subject)
    except SubjectError:
        return None
    return LoggedEvent(ref, message.sequence, message.data) if event_type_of(message.data) is not None else None


def event_of_feed(message: Msg) -> LoggedEvent:
    """The event that a message of the feed brings. Raises ValueError for any other message."""
    _, ref = subjects.parse_task_subject(message.subject)
    sequence = (message.headers or {}).get(_SEQUENCE_HEADER, "")
    if not sequence.isdecimal():
        raise SubjectError(f"The message on '{message.subject}' names no sequence: it is not of the feed")
    if event_type_of(message.data) is None:
        raise ValueError(f"The message on '{message.subject}' is no event: no JSON object with an event_type")
    return LoggedEvent(ref, int(sequence), message.data)
