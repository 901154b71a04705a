"""Tells gateways which models this worker has at hand (ADR 14)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import nats.errors
import structlog
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.announcements import ANNOUNCEMENT_INTERVAL_S, AnnouncedModel, WorkerAnnouncement
from sd_common.nats_client import NatsClient
from sd_common.timed_wait import set_within
from sd_worker.engine.reports import KnownModel
from sd_worker.engine_bridge import EngineBridge

log = structlog.get_logger(__name__)

#: Seconds between looks at which models are resident.
_LOOK_INTERVAL_S = 0.25


class ModelAnnouncer:
    """Announces this worker: at once, when its models change, when somebody calls the roll, and every 10 s."""

    def __init__(self, client: NatsClient, engine: EngineBridge, worker: str, models: Sequence[str] = ()) -> None:
        """`models`: names of those whose jobs the worker takes; without any, those of all."""
        self._client = client
        self._engine = engine
        self._worker = worker
        self._models = models
        self._subject = subjects.announcements_of(worker)
        self._called = asyncio.Event()
        self._is_leaving = False
        self._announcing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._client.subscribe(subjects.ROLL_CALL, cb=self._on_roll_call)
        self._client.on_reconnect(self._on_reconnect)
        self._announcing = asyncio.create_task(self._announce_all(), name="announce-models")

    async def stop(self) -> None:
        """Say goodbye, so that nobody waits for this worker to be forgotten."""
        if self._announcing is not None:
            self._is_leaving = True
            self._called.set()
            await self._announcing

    async def _announce_all(self) -> None:
        while not self._is_leaving:
            # Before the models are looked at: a call that comes meanwhile is answered by the next round.
            self._called.clear()
            resident = set(self._engine.resident_models())
            try:
                known = [
                    each for each in await self._engine.known_models() if not self._models or each.name in self._models
                ]
                models = [_announced(model) for model in known]
                await self._publish(WorkerAnnouncement(worker=self._worker, models=models))
            except Exception:
                log.exception("announcement_failed")  # the next may succeed
            await self._wait_for_a_reason(resident)
        await self._publish(WorkerAnnouncement(worker=self._worker, models=[], is_leaving=True))

    async def _wait_for_a_reason(self, announced: set[str]) -> None:
        """Return when it is time to announce again, or before: when called, or when other models are resident."""
        loop = asyncio.get_running_loop()
        due_at = loop.time() + ANNOUNCEMENT_INTERVAL_S
        while loop.time() < due_at and set(self._engine.resident_models()) == announced:
            if await set_within(self._called, _LOOK_INTERVAL_S):
                return

    async def _publish(self, announcement: WorkerAnnouncement) -> None:
        with contextlib.suppress(nats.errors.Error):  # away: gateways call the roll when they are back
            await self._client.publish(self._subject, announcement.model_dump_json().encode())

    async def _on_roll_call(self, _: Msg) -> None:
        self._called.set()

    async def _on_reconnect(self) -> None:
        self._called.set()


def _announced(model: KnownModel) -> AnnouncedModel:
    return AnnouncedModel(
        name=model.name,
        kinds=list(model.kinds),
        default_parameters=model.default_parameters,
        is_resident=model.is_resident,
        runs_alone=model.runs_alone,
    )
