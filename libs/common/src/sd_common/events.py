"""The steps in a task's life. Stored in EVENTS, but for `progress`, which is not.

The JSON of a stored event is what the REST API and the websocket show.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sd_common.messages import Message, Timestamp, Token, now
from sd_common.parameters import TaskParameters

AbortCode = Literal[
    "cancelled",
    "invalid_input",
    "model_unavailable",
    "out_of_memory",
    "attempts_exhausted",
    "internal",
]

#: The reason the replaced API gave, which its clients compare with.
CANCELLED_BY_USER = "Task cancelled by user"


class TaskResult(Message):
    """A picture and how it was made."""

    v: Literal[1] = Field(default=1, exclude=True)
    blob_url: str = Field(description="Where the picture is.")
    parameters_used: TaskParameters = Field(description="The parameters with every default and the seed filled in.")
    nsfw_content_detected: bool | None = Field(
        default=None,
        description="Whether the safety checker flagged the picture (it is then black); null where none ran.",
    )


class BaseEvent(Message):
    """What every event tells."""

    task_id: Token
    time: Timestamp = Field(default_factory=now)


class PendingEvent(BaseEvent):
    """The task is queued. Comes again when a worker that had started it hands it back."""

    event_type: Literal["pending"] = "pending"
    job_sequence: int = Field(ge=1, description="Sequence of the job in JOBS, by which an abort deletes it.")
    num_attempts: int = Field(default=0, ge=0, description="How often its worker was lost before.")
    handed_back_by: str | None = Field(
        default=None, description="The worker that had started the task; null where it is queued for the first time."
    )


class TaskTimings(BaseModel):
    """Where the time of a finished task went, in seconds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    queue_s: float = Field(description="From its submission until it began, but for `load_s`.")
    load_s: float = Field(description="Until its model was there; 0 where it was in memory.")
    encode_s: float = Field(description="The prompt, and the pictures it starts from.")
    denoise_s: float = Field(description="Its denoising steps, which it shares with other tasks.")
    decode_s: float = Field(description="From latents to pixels, and the safety check.")
    upload_s: float = Field(description="Encoding the PNG, and storing it.")


class StartedEvent(BaseEvent):
    """A worker runs the task. Comes again when that worker was lost, with a higher attempt, or handed it back."""

    event_type: Literal["started"] = "started"
    attempt: int = Field(ge=1)
    worker: str
    delivery: int | None = Field(
        default=None, ge=1, description="How often the job had been given out by then; null from workers of old."
    )


class FinishedEvent(BaseEvent):
    """The picture is stored. Terminal."""

    event_type: Literal["finished"] = "finished"
    attempt: int = Field(ge=1)
    worker: str
    result: TaskResult
    timings: TaskTimings | None = Field(default=None, description="Where the time went; null from workers of old.")


class AbortedEvent(BaseEvent):
    """There will be no picture. Terminal."""

    event_type: Literal["aborted"] = "aborted"
    reason: str = Field(description="A sentence for the client.")
    code: AbortCode = Field(default="internal", description="The reason, for programs.")


class ProgressEvent(BaseEvent):
    """How far a running task is. Not stored; may be missed."""

    event_type: Literal["progress"] = "progress"
    stage: Literal["downloading", "loading", "denoising"] = Field(
        description="`downloading` and `loading`: the task waits for its model."
    )
    step: int = Field(ge=0)
    steps: int = Field(ge=1)
    bytes: int | None = Field(
        default=None, ge=0, description="Bytes of the model that are downloaded or loaded; null at other stages."
    )
    total_bytes: int | None = Field(
        default=None, ge=0, description="Bytes that there are to download or to load; null where it is not known."
    )


StoredEvent = Annotated[PendingEvent | StartedEvent | FinishedEvent | AbortedEvent, Field(discriminator="event_type")]
TerminalEvent = FinishedEvent | AbortedEvent
#: By which also events of later versions are known to be terminal.
TERMINAL_TYPES = frozenset(
    {FinishedEvent.model_fields["event_type"].default, AbortedEvent.model_fields["event_type"].default}
)

stored_event_adapter: TypeAdapter[StoredEvent] = TypeAdapter(StoredEvent, config=ConfigDict(hide_input_in_errors=True))
