"""Submit a task: what the operator allows, with its pictures stored, is queued."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import structlog

from sd_common.allowed_models import check_model_allowed
from sd_common.blob_ids import new_blob_id
from sd_common.errors import ModelNotAllowed
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.lanes import lane_of
from sd_common.parameters import AnyParameters
from sd_common.queue_task import queue_task
from sd_common.subjects import TaskRef
from sd_common.task_limits import exceeded_limits
from sd_common.task_log import TaskLog
from sd_gateway.authn import Identity
from sd_gateway.errors import FieldError, InvalidInput
from sd_gateway.input_pictures import InputPictures
from sd_gateway.settings import GatewaySettings
from sd_gateway.task_set import holder_of
from sd_gateway.unfinished_tasks import UnfinishedTasks


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
        self._settings = settings

    async def submit(self, ref: TaskRef, parameters: AnyParameters, blob_id: str | None = None) -> None:
        """Queue the task, with its picture to go to `blob_id` where that was chosen before. When this returns, the task
        ends in exactly one terminal event.

        Raises `InvalidInput`, `Overloaded`, `TooManyRequests`, `TooManyUnfinishedTasks`, `QueueFull`: nothing is queued
        then; and `Unavailable`.
        """
        default_model = self._settings.default_model
        if default_model is not None and "model" not in parameters.model_fields_set:
            parameters = parameters.model_copy(update={"model": default_model})
        if errors := [FieldError(*error) for error in self._refusals(parameters)]:
            raise InvalidInput(errors)
        with self._unfinished_tasks.admitted(ref) as num_others:
            job = Job(
                task_id=ref.task_id,
                user=ref.user,
                session=ref.session,
                blob_id=blob_id or new_blob_id(),
                parameters=await self._input_pictures.stored(parameters, holder_of(ref)),
            )
            await queue_task(self._queue, self._task_log, job, lane_of(num_others))

    def _refusals(self, parameters: AnyParameters) -> Iterator[tuple[str, str]]:
        """What the operator does not allow: fields, each with a sentence."""
        if self._settings.safety_filter == "required" and not parameters.safety_filter:
            yield "safety_filter", "The operator requires the safety filter: leave this out, or give true"
        try:
            check_model_allowed(parameters.model, self._settings.allowed_models)
        except ModelNotAllowed as error:
            yield "model", str(error)
        yield from exceeded_limits(parameters, self._settings)
