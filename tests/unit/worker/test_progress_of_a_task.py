"""What a worker publishes of a task's progress."""

from __future__ import annotations

import asyncio
import json
from typing import cast

import pytest

from sd_common.nats_client import NatsClient
from sd_common.subjects import TaskRef
from sd_common.task_log import TaskLog
from sd_worker.engine.tasks import Progress
from sd_worker.publish_events import EventPublisher


class Published:
    """Takes what is published in place of NATS."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def publish(self, subject: str, payload: bytes) -> None:
        await self.messages.put((subject, payload))


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        (
            Progress("t", "downloading", 0, 20, bytes_done=5, bytes_total=100),
            {"stage": "downloading", "step": 0, "steps": 20, "bytes": 5, "total_bytes": 100},
        ),
        (
            Progress("t", "denoising", 3, 20),
            {"stage": "denoising", "step": 3, "steps": 20, "bytes": None, "total_bytes": None},
        ),
    ],
)
async def test_progress_tells_the_stage_with_steps_and_bytes(progress: Progress, told: dict[str, object]) -> None:
    client = Published()
    # The log is not asked: progress is not stored.
    events = EventPublisher(cast(NatsClient, client), cast(TaskLog, None), "worker", max_attempts=5)

    events.progress(TaskRef("alice", "s", "t"), progress)

    subject, payload = await client.messages.get()
    assert subject == "progress.alice.s.t"
    assert json.loads(payload).items() >= told.items()
