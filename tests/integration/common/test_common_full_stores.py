"""NATS has no room left: what is not stored is told at once, and nothing is half done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from integration.common.makers import new_job, new_ref, pending
from structlog.testing import capture_logs

from sd_common.buckets import Bucket
from sd_common.errors import QueueFull, StoreFull
from sd_common.job_queue import JobQueue
from sd_common.metrics import ProcessMetrics
from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from sd_common.provision import provision_streams
from sd_common.streams import IDEMPOTENCY_KEYS_BUCKET, StreamSettings
from sd_common.task_log import NO_EVENT, TaskLog
from support.jobs import num_jobs
from support.metrics import Page
from support.servers import NatsServer
from support.small_stores import NUM_REFUSED_BY_FILL, SMALL_STREAMS, Limited, fill, make_room, small_nats_server
from support.waiting import until

#: Less than a call is tried again for.
_AT_ONCE_S = 10.0


@pytest.fixture(params=["server", "account"])
def nats_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
    limited: Limited = request.param
    with small_nats_server(tmp_path, limited) as server:
        yield server


def num_refusals(metrics: ProcessMetrics) -> float:
    page = Page.of(metrics.registry)
    return page.value("sd_nats_errors_total", operation="store")


async def test_what_finds_no_room_is_refused_at_once_counted_and_logged(nats_settings: NatsSettings) -> None:
    metrics = ProcessMetrics()
    with capture_logs() as lines:
        client = await connect(nats_settings, "test", metrics.nats)
        js = client.jetstream()
        await provision_streams(js, SMALL_STREAMS)
        await fill(client)
        bucket, ref = Bucket(client, IDEMPOTENCY_KEYS_BUCKET), new_ref()
        started = time.monotonic()
        calls: list[Awaitable[object]] = [
            JobQueue(client).publish(new_job()),
            TaskLog(client).append(ref, pending(ref), NO_EVENT),
            bucket.answered(lambda bucket: bucket.update("key", bytes(200), last=0)),
        ]
        for call in calls:
            with pytest.raises(StoreFull, match=r"^The message broker has no room left"):
                await call
        assert time.monotonic() - started < _AT_ONCE_S
        assert await num_jobs(client) == 0
        await make_room(js)
        await TaskLog(client).append(ref, pending(ref), NO_EVENT)
        await JobQueue(client).publish(new_job())
        await client.shut()
    assert num_refusals(metrics) == NUM_REFUSED_BY_FILL + 3
    assert [line["event"] for line in lines].count("nats_store_full") == 1, "once a minute"


async def test_an_append_may_wait_for_room(nats_settings: NatsSettings) -> None:
    metrics = ProcessMetrics()
    client = await connect(nats_settings, "test", metrics.nats)
    js = client.jetstream()
    await provision_streams(js, SMALL_STREAMS)
    await fill(client)
    num_refused = num_refusals(metrics)
    ref = new_ref()
    log = TaskLog(client, waits_while_full=True)
    appending = asyncio.create_task(log.append(ref, pending(ref), NO_EVENT))
    await until(lambda: num_refusals(metrics) > num_refused)
    assert not appending.done()
    await make_room(js)
    await appending
    await client.shut()


async def test_no_more_bytes_are_queued_than_the_queues_may_hold(nats_client: NatsClient) -> None:
    """Else the events of what is queued would find none."""
    await provision_streams(nats_client.jetstream(), SMALL_STREAMS)
    queue = JobQueue(nats_client)
    long = new_job().parameters.model_copy(update={"prompt": "x" * 2000})
    jobs = [new_job().model_copy(update={"parameters": long}) for _ in range(600)]
    results = await asyncio.gather(*map(queue.publish, jobs), return_exceptions=True)
    assert any(isinstance(result, StoreFull) for result in results)
    ref = new_ref()
    await TaskLog(nats_client).append(ref, pending(ref), NO_EVENT)


async def test_a_full_lane_is_no_full_store(nats_client: NatsClient) -> None:
    await provision_streams(nats_client.jetstream(), SMALL_STREAMS.model_copy(update={"jobs_max_per_model": 1}))
    queue = JobQueue(nats_client)
    await queue.publish(new_job())
    with pytest.raises(QueueFull):
        await queue.publish(new_job())


async def test_streams_that_find_no_room_are_told_with_the_setting(nats_client: NatsClient) -> None:
    settings = StreamSettings(_env_file=None, jobs_max_bytes=1024**3)
    with pytest.raises(StoreFull, match="JOBS_MAX_BYTES is 1,073,741,824"):
        await provision_streams(nats_client.jetstream(), settings)
