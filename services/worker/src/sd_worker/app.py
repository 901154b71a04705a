"""The worker: wires its parts, and owns the order in which they start and stop."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NoReturn

import structlog

from sd_common.blob_store import BlobStore
from sd_common.health import serving_health
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.s3_client import MinioSettings
from sd_common.task_log import TaskLog
from sd_worker.announce_models import ModelAnnouncer
from sd_worker.cancellations import Cancellations
from sd_worker.consume_jobs import JobConsumer
from sd_worker.create_engine import create_engine
from sd_worker.engine_bridge import EngineBridge
from sd_worker.errors import EngineFailed
from sd_worker.input_pictures import InputPictures
from sd_worker.job_source import JobSource
from sd_worker.lone_tasks import LoneTasks
from sd_worker.metrics import WorkerMetrics
from sd_worker.publish_events import EventPublisher
from sd_worker.run_task import TaskHandler
from sd_worker.settings import WorkerSettings
from sd_worker.take_jobs import JobTaker
from sd_worker.warm_up import warm_up

log = structlog.get_logger(__name__)

#: A step of a large picture takes seconds; a task is cancelled after the one under way.
_ENGINE_STOP_TIMEOUT_S = 30.0
#: For telling NATS of the tasks that are handed back then. So a worker has ended some 40 s after DRAIN_TIMEOUT_S at
#: most; manifests give it 50.
_HAND_BACK_TIMEOUT_S = 10.0


class WorkerApp:
    """One worker process, or a worker's part of one."""

    def __init__(
        self,
        settings: WorkerSettings,
        nats_settings: NatsSettings,
        minio_settings: MinioSettings,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics or WorkerMetrics()
        self._nats_settings = nats_settings
        self._minio_settings = minio_settings
        self._client: NatsClient | None = None
        self._engine: EngineBridge | None = None
        self._taker: JobTaker | None = None
        #: Why no jobs are taken yet, or any more.
        self._no_jobs_because: str | None = "the worker is starting"
        #: The port of the health server, where there is one.
        self.health_port: int | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Connect, start the engine, take jobs. What had started is stopped again where a part fails.

        Raises `EngineFailed` where the engine fails on a model of `PRELOAD_MODELS`.
        """
        settings, metrics = self._settings, self._metrics
        async with AsyncExitStack() as stack:
            registry = metrics.process.registry
            health = serving_health(settings.health_host, settings.health_port, self._readiness, registry)
            self.health_port = await stack.enter_async_context(health)
            engine = self._engine = EngineBridge(await asyncio.to_thread(create_engine, settings, metrics))
            stack.enter_context(metrics.watched(engine))
            self._client = await connect(self._nats_settings, "worker", metrics.process.nats)
            stack.push_async_callback(self._client.shut)
            blobs = await stack.enter_async_context(BlobStore(self._minio_settings, metrics=metrics.process.s3))
            task_log = TaskLog(self._client, metrics.process.tasks, waits_while_full=True)
            cancellations = Cancellations(self._client, task_log)
            events = EventPublisher(self._client, task_log, settings.worker_name, settings.max_attempts)
            input_pictures = InputPictures(blobs, settings.base_url, settings)
            lone_tasks = LoneTasks()
            handler = TaskHandler(engine, cancellations, events, input_pictures, blobs, lone_tasks, settings)
            source = JobSource(
                self._client,
                JobQueue(self._client, settings.job_ack_wait_s),
                engine.models_here,
                settings.model_swap_after_s,
                settings.worker_name,
                settings.models,
            )
            await cancellations.start()
            engine.start()
            consumer = JobConsumer(handler, events, metrics)
            self._taker = JobTaker(source, engine, lone_tasks, consumer, settings.job_ack_wait_s)
            stack.push_async_callback(self._drain, self._taker, handler, engine)
            self._no_jobs_because = "the models of PRELOAD_MODELS are being loaded"
            await warm_up(engine, settings.preload_models)
            if engine.has_failed():
                raise EngineFailed
            self._taker.start()
            self._no_jobs_because = None
            announcer = ModelAnnouncer(self._client, engine, settings.worker_name, settings.models)
            stack.push_async_callback(announcer.stop)
            await announcer.start()
            self._stack = stack.pop_all()
        log.info("worker_started", worker=settings.worker_name)

    async def stop(self) -> None:
        """Take no more jobs, finish what runs within DRAIN_TIMEOUT_S, hand back the rest. Idempotent."""
        await self._stack.aclose()

    async def raise_once_failed(self) -> NoReturn:
        """Raises `EngineFailed` once the engine can do nothing any more. Whoever started the worker stops it then, and
        ends the process: a device that has failed, such as a GPU after an illegal access to its memory, is of use to
        no other engine here."""
        assert self._engine is not None, "it was not started"
        await self._engine.wait_until_failed()
        log.error("engine_failed", worker=self._settings.worker_name)
        raise EngineFailed

    async def _drain(self, taker: JobTaker, handler: TaskHandler, engine: EngineBridge) -> None:
        self._no_jobs_because = "the worker ends: it takes no more jobs"
        log.info("worker_draining")
        # Before jobs are handed back: one that came to a pull of this worker which is just closing would be lost to all
        # for ack_wait.
        await taker.stop()
        handler.drain()
        has_time_left = await taker.wait_for_running(self._settings.drain_timeout_s)
        if not has_time_left:
            log.warning("drain_timed_out")
            handler.give_up_storing()
        await engine.stop(_ENGINE_STOP_TIMEOUT_S)
        if not await taker.end(_HAND_BACK_TIMEOUT_S):
            log.warning("jobs_left_to_ack_wait")

    async def _readiness(self) -> dict[str, str | None]:
        is_connected = self._client is not None and self._client.is_connected
        return {
            "nats": None if is_connected else "not connected",
            "engine": "it has failed: the worker hands back its jobs, and ends" if self._has_failed() else None,
            "jobs": self._no_jobs_because or (self._taker.missing() if self._taker is not None else None),
        }

    def _has_failed(self) -> bool:
        return self._engine is not None and self._engine.has_failed()
