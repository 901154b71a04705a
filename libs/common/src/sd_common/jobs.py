"""The message on the JOBS stream that asks a worker to run a task."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, field_serializer

from sd_common.messages import BlobId, Message, Timestamp, Token, now
from sd_common.parameters import TaskParameters
from sd_common.subjects import TaskRef


class JobHead(BaseModel):
    """Whose task a job is, of whatever version: all that is needed to end it."""

    model_config = Message.model_config

    task_id: Token = Field(
        description="Names the task, among those of its session. The `Nats-Msg-Id` of the job is "
        "`USER.SESSION.TASK_ID`: within 120 s, what comes again under it is the same job."
    )
    user: Token
    session: Token

    @property
    def ref(self) -> TaskRef:
        return TaskRef(self.user, self.session, self.task_id)


class Job(JobHead, Message):
    """Complete in itself: who publishes one needs nothing else, and a retry does the same thing again."""

    submitted_at: Timestamp = Field(default_factory=now)
    blob_id: BlobId = Field(
        description="Where the picture goes, chosen at submission, and of no other picture: only a retry overwrites it."
    )
    parameters: TaskParameters = Field(
        description="What the task asks for. What is left out takes the model's own default, or else the one here."
    )

    @field_serializer("parameters")
    def _only_what_was_given(self, parameters: TaskParameters) -> dict[str, Any]:
        # With every default written out, the model's own would never count.
        return {**parameters.given(), "params_type": parameters.params_type, "model": parameters.model}
