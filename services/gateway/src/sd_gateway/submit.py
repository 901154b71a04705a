"""Submit a task: its job onto JOBS, then `pending` into its log."""

from __future__ import annotations

import uuid

import structlog

from sd_common.blob_store import new_blob_id
from sd_common.errors import SequenceConflict, TaskEnded, Unavailable
from sd_common.events import PendingEvent
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.lanes import lane_of
from sd_common.parameters import Img2ImgParameters, InpaintParameters, Txt2ImgParameters
from sd_common.subjects import TaskRef
from sd_common.task_log import NO_EVENT, TaskLog
from sd_gateway.authn import Identity
from sd_gateway.errors import FieldError, InvalidInput
from sd_gateway.input_pictures import InputPictures
from sd_gateway.settings import GatewaySettings
from sd_gateway.unfinished_tasks import UnfinishedTasks

log = structlog.get_logger(__name__)

Parameters = Txt2ImgParameters | Img2ImgParameters | InpaintParameters


def new_task(identity: Identity) -> TaskRef:
    """Name a task that is to be submitted."""
    ref = TaskRef(identity.user, identity.session, str(uuid.uuid4()))
    bind_task(ref)
    return ref


def bind_task(ref: TaskRef) -> None:
    """Have the lines that this request logs from now on tell the task."""
    structlog.contextvars.bind_contextvars(task_id=ref.task_id)


class Submitter:
    """Submits tasks."""

    def __init__(
        self,
        queue: JobQueue,
        task_log: TaskLog,
        input_pictures: InputPictures,
        unfinished_tasks: UnfinishedTasks,
        settings: GatewaySettings,
    ) -> None:
        self._queue = queue
        self._task_log = task_log
        self._input_pictures = input_pictures
        self._unfinished_tasks = unfinished_tasks
        self._default_model = settings.default_model
        self._safety_filter_required = settings.safety_filter == "required"

    async def submit(self, ref: TaskRef, parameters: Parameters, blob_id: str | None = None) -> None:
        """Queue the task, with its picture to go to `blob_id` where that was chosen before. When this returns, the task
        ends in exactly one terminal event.

        Raises `InvalidInput`, `TooManyUnfinishedTasks`, `QueueFull`: nothing is queued then; and `Unavailable`.
        """
        if self._safety_filter_required and not parameters.safety_filter:
            raise InvalidInput(
                [FieldError("safety_filter", "The operator requires the safety filter: leave this out, or give true")]
            )
        if self._default_model is not None and "model" not in parameters.model_fields_set:
            parameters = parameters.model_copy(update={"model": self._default_model})
        with self._unfinished_tasks.admitted(ref):
            job = Job(
                task_id=ref.task_id,
                user=ref.user,
                session=ref.session,
                blob_id=blob_id or new_blob_id(),
                parameters=await self._input_pictures.stored(parameters),
            )
            await self._queue_job(job)

    async def _queue_job(self, job: Job) -> None:
        ref = job.ref
        job_sequence = await self._queue.publish(job, lane_of(self._unfinished_tasks.count(ref.user) - 1))
        try:
            await self._task_log.append(ref, PendingEvent(task_id=ref.task_id, job_sequence=job_sequence), NO_EVENT)
        except (SequenceConflict, TaskEnded):
            pass  # a worker was first, and wrote `pending` itself
        except Unavailable:
            # The job is stored, so the task is accepted: the worker that takes it writes `pending`.
            log.warning("pending_event_left_to_worker", task_id=ref.task_id)
