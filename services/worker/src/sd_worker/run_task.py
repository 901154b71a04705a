"""One task's way through this worker: started, pictures fetched, run, stored, finished."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable

import structlog
from PIL import Image

from sd_common.blob_store import BlobStore
from sd_common.blob_urls import blob_url
from sd_common.errors import TaskEnded, Unavailable
from sd_common.events import TaskResult, TaskTimings
from sd_common.jobs import Job
from sd_common.messages import now
from sd_common.subjects import TaskRef
from sd_common.tracing import span
from sd_worker.abandonable import Abandonable
from sd_worker.cancellations import Cancellation, Cancellations
from sd_worker.delivery import Delivery
from sd_worker.endings import TerminalType
from sd_worker.engine.tasks import Cancelled, EngineTask, Failed, Finished, Outcome
from sd_worker.engine_bridge import EngineBridge
from sd_worker.errors import HandedBack, InputRejected, TaskLost
from sd_worker.input_pictures import InputPictures
from sd_worker.job_spans import record_stages
from sd_worker.lone_tasks import LoneTasks, must_run_alone
from sd_worker.publish_events import Attempt, EventPublisher
from sd_worker.refusals import refusal_of
from sd_worker.settings import WorkerSettings
from sd_worker.upload import upload


def seed_of(task_id: str) -> int:
    """The seed of a task that names none: 32 bits drawn from its id, so that a retry makes the same picture."""
    return int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:4])


def _timings(job: Job, finished: Finished, upload_s: float) -> TaskTimings:
    engine = finished.timings
    since_began_s = engine.encoding_s + engine.denoising_s + engine.decoding_s + engine.png_s + upload_s
    # All that was before it began, also on the way here. Clocks of two machines may differ.
    queue_s = (now() - job.submitted_at).total_seconds() - since_began_s - engine.loading_s
    seconds = {
        "queue_s": max(0.0, queue_s),
        "load_s": engine.loading_s,
        "encode_s": engine.encoding_s,
        "denoise_s": engine.denoising_s,
        "decode_s": engine.decoding_s,
        "upload_s": engine.png_s + upload_s,
    }
    return TaskTimings.model_validate({name: round(value, 4) for name, value in seconds.items()})


class TaskHandler:
    """Takes tasks through this worker, as many at once as it is asked to."""

    def __init__(
        self,
        engine: EngineBridge,
        cancellations: Cancellations,
        events: EventPublisher,
        input_pictures: InputPictures,
        blobs: BlobStore,
        lone_tasks: LoneTasks,
        settings: WorkerSettings,
    ) -> None:
        self._engine = engine
        self._cancellations = cancellations
        self._events = events
        self._input_pictures = input_pictures
        self._blobs = blobs
        self._lone_tasks = lone_tasks
        self._settings = settings
        self._running: set[TaskRef] = set()
        self._fetching = Abandonable()
        self._storing = Abandonable()
        self._is_draining = False
        self._imposed: dict[str, bool] = {}
        if settings.safety_filter == "required":
            self._imposed["safety_filter"] = True
        if settings.deterministic:
            self._imposed["deterministic"] = True

    async def run(self, job: Job, delivery: Delivery, has_come: Callable[[], None]) -> TerminalType:
        """Run the task to its terminal event, whose type is returned; `has_come` is called when the engine has it, or
        will not.

        Raises `TaskEnded` where it ended otherwise, `TaskLost`, `HandedBack`, and `Unavailable`.
        """
        if (refusal := refusal_of(job, delivery.subject, self._settings)) is not None:
            await self._events.refuse(job.ref, delivery.job_sequence, *refusal)
            return "aborted"
        if job.ref in self._running:
            # Delivered again to this very worker, which did not tell in time that the job is in progress.
            raise TaskLost(job.task_id)
        self._running.add(job.ref)
        try:
            return await self._run(job, delivery, has_come)
        finally:
            self._running.discard(job.ref)

    def drain(self) -> None:
        """Hand back, from now on, each task that the engine has not begun."""
        self._is_draining = True
        self._lone_tasks.end()
        self._engine.drain()
        self._fetching.give_up()

    def give_up_storing(self) -> None:
        """Hand back, from now on, also each task whose picture is made and not stored yet."""
        self._storing.give_up()

    async def _run(self, job: Job, delivery: Delivery, has_come: Callable[[], None]) -> TerminalType:
        with self._cancellations.watched(job.ref) as cancellation:
            self._check_begins_tasks()
            coming = await self._events.next_attempt(job.ref, delivery)
            alone = must_run_alone(coming.number, self._settings.max_attempts)
            async with self._lone_tasks.under_way(alone=alone):
                self._check_begins_tasks()
                attempt = await self._events.start(coming, delivery)
                structlog.contextvars.bind_contextvars(attempt=attempt.number)  # it may be another than was coming
                try:
                    outcome = await self._run_engine(job, cancellation, has_come)
                    return await self._tell(job, attempt, outcome, cancellation)
                except InputRejected as error:
                    has_come()
                    await self._events.abort(attempt, "invalid_input", str(error))
                    return "aborted"
                except (HandedBack, Unavailable):
                    if not self._engine.has_failed():  # else the attempt counts: no task is to break all devices
                        await self._events.hand_back(attempt, delivery.job_sequence)
                    raise

    def _check_begins_tasks(self) -> None:
        if self._is_draining or self._engine.has_failed():
            raise HandedBack("the worker begins no more tasks")

    async def _run_engine(self, job: Job, cancellation: Cancellation, has_come: Callable[[], None]) -> Outcome:
        initial_image, mask = await self._fetch(job, "initial_image", "mask")
        if cancellation.requested:
            return Cancelled(job.ref.message_id)
        # Gateways refuse a task that turns the filter off; jobs may come from others.
        parameters = job.parameters.model_copy(update=self._imposed)
        seed = parameters.seed if parameters.seed is not None else seed_of(job.task_id)
        task = EngineTask(job.ref.message_id, parameters, seed, initial_image, mask, logged_id=job.task_id)
        cancellation.on_request(lambda: self._engine.cancel(task.task_id))
        has_come()
        with span("engine"):
            outcome = await self._engine.run(task, lambda progress: self._events.progress(job.ref, progress))
            if isinstance(outcome, Finished):
                record_stages(outcome.timings)
        return outcome

    async def _fetch(self, job: Job, *fields: str) -> list[Image.Image | None]:
        fetches = [self._input_pictures.fetch(job.parameters, field) for field in fields]
        return await self._fetching.run(asyncio.gather(*fetches))

    async def _tell(self, job: Job, attempt: Attempt, outcome: Outcome, cancellation: Cancellation) -> TerminalType:
        match outcome:
            case Finished():
                await self._events.check(attempt)
                upload_started_at = time.perf_counter()
                with span("upload"):
                    await self._storing.run(upload(self._blobs, job.blob_id, outcome.png, job.ref))
                timings = _timings(job, outcome, time.perf_counter() - upload_started_at)
                result = TaskResult(
                    blob_url=blob_url(self._settings.base_url, job.blob_id),
                    parameters_used=outcome.parameters_used,
                    nsfw_content_detected=outcome.nsfw_content_detected,
                )
                await self._events.finish(attempt, result, timings)
                # For the one line that is logged of the job.
                structlog.contextvars.bind_contextvars(**timings.model_dump())
                return "finished"
            case Failed():
                await self._events.abort(attempt, outcome.code, outcome.reason)
            case Cancelled() if cancellation.requested:
                raise TaskEnded(job.task_id, "aborted")
            case Cancelled():
                raise HandedBack("the engine was stopped")
        return "aborted"
