"""What NATS and S3 themselves hold after a run.

Read with nats-py and minio alone, and nothing of the service: it cannot be wrong in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nats
import nats.errors
from minio import Minio
from minio.error import S3Error
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from PIL import Image

from chaos.fleet import Fleet
from sd_common.s3_client import MinioSettings
from support.events import TERMINAL_TYPES
from support.waiting import once

_NEXT_WITHIN_S = 10.0


@dataclass(frozen=True)
class Told:
    """One stored event."""

    sequence: int
    #: When NATS stored it, by the wall clock.
    at_s: float
    session: str
    task_id: str
    body: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.body["event_type"])

    @property
    def is_terminal(self) -> bool:
        return self.type in TERMINAL_TYPES


@dataclass(frozen=True)
class Leftovers:
    """What should be nothing once all tasks have ended."""

    num_jobs: int
    #: Jobs that were given out and are not acknowledged, by consumer.
    acks_pending: dict[str, int]

    @property
    def is_clean(self) -> bool:
        return self.num_jobs == 0 and not self.acks_pending


async def connect(fleet: Fleet) -> Client:
    """A plain connection, closed by whoever asked."""

    async def pass_over(_: Exception) -> None:
        """It is disconnected when a server is killed, which is no news here."""

    settings = fleet.nats_settings
    return await nats.connect(
        settings.nats_url.get_secret_value().split(","),
        user=settings.nats_user,
        password=settings.password,
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        error_cb=pass_over,
    )


async def last_sequence(client: Client) -> int:
    """Where EVENTS stands."""
    return (await client.jetstream().stream_info("EVENTS")).state.last_seq


async def read_events(client: Client, after: int = 0) -> list[Told]:
    """What EVENTS holds after a sequence, in its order."""
    last = await last_sequence(client)
    told: list[Told] = []
    if last == after:
        return told
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
    subscription = await client.jetstream().subscribe("events.>", stream="EVENTS", ordered_consumer=True, config=config)
    try:
        while not told or told[-1].sequence < last:
            message = await subscription.next_msg(_NEXT_WITHIN_S)
            _, _, session, task_id = message.subject.split(".")
            metadata = message.metadata
            told.append(
                Told(
                    sequence=metadata.sequence.stream,
                    at_s=metadata.timestamp.timestamp(),
                    session=session,
                    task_id=task_id,
                    body=json.loads(message.data),
                )
            )
    finally:
        await subscription.unsubscribe()
    return told


def by_task(events: Iterable[Told]) -> dict[str, list[Told]]:
    """Each task's events, in their order."""
    tasks: defaultdict[str, list[Told]] = defaultdict(list)
    for event in events:
        tasks[event.task_id].append(event)
    return dict(tasks)


async def leftovers(client: Client) -> Leftovers:
    """What JOBS and its consumers still hold."""
    js = client.jetstream()
    jobs = (await js.stream_info("JOBS")).state.messages
    consumers = await js.consumers_info("JOBS")
    pending = {consumer.name: consumer.num_ack_pending for consumer in consumers if consumer.num_ack_pending}
    return Leftovers(jobs, pending)


async def settle(client: Client, accepted: Iterable[str], after: int, within_s: float) -> None:
    """Return when every task that was accepted or has events has ended and nothing is left over, or the time is up.

    Events after the sequence `after` count.
    """
    awaited = set(accepted)
    with contextlib.suppress(TimeoutError):  # the verdict tells what is missing
        await once(lambda: _is_settled(client, awaited, after), bool, within_s)


async def _is_settled(client: Client, awaited: set[str], after: int) -> bool:
    try:
        if not (await leftovers(client)).is_clean:
            return False
        events = await read_events(client, after)
    except nats.errors.Error:  # its `TimeoutError` is one of Python's too: NATS may take long, or be coming back
        return False
    begun = {event.task_id for event in events}
    return awaited | begun <= {event.task_id for event in events if event.is_terminal}


class Bucket:
    """The pictures."""

    def __init__(self, settings: MinioSettings) -> None:
        self._bucket = settings.minio_bucket
        self._client = Minio(
            settings.minio_endpoint,
            settings.minio_access_key,
            settings.minio_secret_key.get_secret_value(),
            secure=False,
            region=settings.minio_region,
        )

    async def size_of(self, blob_url: str) -> tuple[int, int] | None:
        """Width and height of a whole PNG; None where there is none."""
        return await asyncio.to_thread(self._size_of, blob_url.rpartition("/")[2])

    def _size_of(self, blob_id: str) -> tuple[int, int] | None:
        try:
            response = self._client.get_object(self._bucket, blob_id)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return None
        try:
            with Image.open(io.BytesIO(response.read()), formats=["PNG"]) as picture:
                picture.load()  # a torn one raises
                return picture.size
        except OSError:
            return None
        finally:
            response.close()
            response.release_conn()
