"""The message on the JOBS stream that asks a worker to run a task."""

from __future__ import annotations

from pydantic import Field

from sd_common.messages import BlobId, Message, Timestamp, Token, now
from sd_common.parameters import TaskParameters
from sd_common.subjects import TaskRef


class JobHead(Message):
    """Whose task a job is: all that is needed to end it."""

    task_id: Token = Field(description="Names the task; also the `Nats-Msg-Id` of the job.")
    user: Token
    session: Token

    @property
    def ref(self) -> TaskRef:
        return TaskRef(self.user, self.session, self.task_id)


class Job(JobHead):
    """Complete in itself: who publishes one needs nothing else, and a retry does the same thing again."""

    submitted_at: Timestamp = Field(default_factory=now)
    blob_id: BlobId = Field(description="Where the picture goes, chosen at submission: a retry overwrites it.")
    parameters: TaskParameters
