"""Which models the workers have at hand, from what they announce (ADR 14)."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass

import nats.errors
import structlog
from nats.aio.msg import Msg
from pydantic import ValidationError

from sd_common import subjects
from sd_common.announcements import SILENCE_S, AnnouncedModel, WorkerAnnouncement
from sd_common.nats_client import NatsClient
from sd_common.parameters import DefaultParameters, TaskKind

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that workers have at hand."""

    name: str
    kinds: list[TaskKind]
    default_parameters: DefaultParameters
    num_workers: int
    num_workers_resident: int
    runs_alone: bool


class ServedModels:
    """Keeps the newest announcement of each worker, until it leaves or has been silent for long."""

    def __init__(self, client: NatsClient) -> None:
        self._client = client
        self._heard: dict[str, tuple[float, WorkerAnnouncement]] = {}

    async def start(self) -> None:
        """Listen, and call the roll: workers answer within milliseconds."""
        await self._client.subscribe(subjects.WORKERS, cb=self._on_announcement)
        self._client.on_reconnect(self._call_roll)
        await self._call_roll()

    def current(self) -> list[ServedModel]:
        """The models by name."""
        silent_since = time.monotonic() - SILENCE_S
        self._heard = {worker: heard for worker, heard in self._heard.items() if heard[0] > silent_since}
        announced: defaultdict[str, list[AnnouncedModel]] = defaultdict(list)
        for _, announcement in self._heard.values():
            for model in announcement.models:
                announced[model.name].append(model)
        return [_served(announced[name]) for name in sorted(announced)]

    def num_workers(self) -> int:
        """How many workers there are. Any thread may call it."""
        silent_since = time.monotonic() - SILENCE_S
        return sum(heard_at > silent_since for heard_at, _ in list(self._heard.values()))

    async def _on_announcement(self, message: Msg) -> None:
        try:
            announcement = WorkerAnnouncement.model_validate_json(message.data)
        except ValidationError:
            log.warning("announcement_ignored", subject=message.subject)
            return
        self._heard.pop(announcement.worker, None)
        if not announcement.is_leaving:
            self._heard[announcement.worker] = time.monotonic(), announcement

    async def _call_roll(self) -> None:
        with contextlib.suppress(nats.errors.Error):  # away again: the next reconnect calls
            await self._client.publish(subjects.ROLL_CALL)


def _served(models: list[AnnouncedModel]) -> ServedModel:
    """One model, from what its workers tell. Those that have it in memory know more of its defaults."""
    best = max(models, key=lambda model: model.is_resident)
    return ServedModel(
        best.name,
        best.kinds,
        best.default_parameters,
        num_workers=len(models),
        num_workers_resident=sum(model.is_resident for model in models),
        runs_alone=best.runs_alone,
    )
