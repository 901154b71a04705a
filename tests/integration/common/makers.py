"""Jobs and events of tests."""

from __future__ import annotations

import uuid

from sd_common.blob_ids import new_blob_id
from sd_common.events import AbortedEvent, FinishedEvent, PendingEvent, StartedEvent, TaskResult
from sd_common.jobs import Job
from sd_common.model_names import model_key
from sd_common.parameters import Txt2ImgParameters
from sd_common.subjects import ModelLane, TaskRef

MODEL = "shapes"
KEY = model_key(MODEL)
#: Where jobs are published unless told otherwise; its consumer is named as the model key.
REST = ModelLane(KEY, "rest")


def new_ref(user: str = "alice", session: str = "session-1") -> TaskRef:
    """A task that nobody has heard of."""
    return TaskRef(user, session, str(uuid.uuid4()))


def new_job(ref: TaskRef | None = None, model: str = MODEL) -> Job:
    """A job of a task."""
    ref = ref or new_ref()
    return Job(
        task_id=ref.task_id,
        user=ref.user,
        session=ref.session,
        blob_id=new_blob_id(),
        parameters=Txt2ImgParameters(prompt="corgi", model=model),
    )


def new_bucket_name() -> str:
    """A bucket that is not there yet."""
    return f"test-{uuid.uuid4()}"


def pending(ref: TaskRef, job_sequence: int = 1) -> PendingEvent:
    return PendingEvent(task_id=ref.task_id, job_sequence=job_sequence)


def handed_back(ref: TaskRef, job_sequence: int = 1) -> PendingEvent:
    return PendingEvent(task_id=ref.task_id, job_sequence=job_sequence, handed_back_by="worker-1")


def started(ref: TaskRef, attempt: int = 1, worker: str = "worker-1") -> StartedEvent:
    return StartedEvent(task_id=ref.task_id, attempt=attempt, worker=worker)


def finished(ref: TaskRef, worker: str = "worker-1") -> FinishedEvent:
    result = TaskResult(blob_url="http://localhost/blob/x", parameters_used=Txt2ImgParameters(prompt="corgi", seed=1))
    return FinishedEvent(task_id=ref.task_id, attempt=1, worker=worker, result=result)


def aborted(ref: TaskRef) -> AbortedEvent:
    return AbortedEvent(task_id=ref.task_id, reason="Task cancelled by user", code="cancelled")
